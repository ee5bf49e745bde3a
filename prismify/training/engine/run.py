"""A run: its recipe, its folder, where it stands, and its state. The recipes hold the loop itself.

Its `processes` compute and agree, its `record` tells and writes, `stopping` says when it ends.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol

import torch
from torch import Tensor

from ...checkpoint import Trust
from ...errors import PrismifyError, RecipeError, TrainingError
from ...generators import mixed, seed_generators
from ..data import Batch, Shares, Stream, told_batches
from ..rates import progress, scheduled, set_rate
from ..recipe import recipe_data
from ..schema import Recipe
from .draws import Draws
from .events import Watch
from .processes import Part, Processes
from .record import Record
from .resuming import changes_since, newest_state
from .state import prune, state_path, states, write_state
from .stopping import Stopping, handled_signals
from .written import Written


class Stateful(Protocol):
    """What a state is made of."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: Any) -> Any: ...


class Run:
    """Made by `open_run`; knows its folder, its processes and its step, and keeps its state."""

    def __init__(self, recipe: Recipe, accelerator: Any, watch: Watch, trust: Trust, *, restart: bool = False) -> None:
        self.recipe, self.trust = recipe, trust
        self.folder, self._restart = Path(recipe.output), restart
        self.written: Written  # of the process that leads, from `open_run`
        self.processes = Processes(accelerator, recipe.train)
        self.draws = Draws(recipe.train.seed, self.processes)
        self.record = Record(self.folder, watch, leads=self.processes.leads)
        self.stopping = Stopping(recipe.train.max_minutes, recipe.train.divergence)
        self.step = 0
        self.steps = recipe.train.steps or 0
        self.best: tuple[float, int] | None = None
        self._parts: dict[str, Stateful] = {}
        self._idle: dict[str, int] = {}
        self._optimizers: list[Any] = []
        self._saved, self._updating, self._fingerprint = -1, False, ""

    @property
    def leads(self) -> bool:
        """Whether this process writes and speaks for all."""
        return self.processes.leads

    @property
    def device(self) -> torch.device:
        return self.processes.device

    @property
    def shares(self) -> Shares:
        """How a step's batch is split over processes and parts."""
        return self.processes.shares

    @property
    def seed(self) -> int:
        return self.recipe.train.seed

    @property
    def judging(self) -> str | None:
        """The command that shows how good the run's model is, for a shell; None where it must be finished first."""
        return _judging(self.recipe, self.folder, self._parts.get("average"), self.trust)

    def say(self, text: str) -> None:
        """Tell a line to whoever watches."""
        self.record.say(text, self.step)

    def noise(self, step: int, part: Part, shape: tuple[int, ...]) -> Tensor:
        """Standard normal numbers for this process's images: the same for an image whoever computes it."""
        return self.draws.noise(step, part, shape)

    def chances(self, step: int, part: Part, count: int) -> Tensor:
        """Uniform numbers in [0, 1) likewise, shape (B, count)."""
        return self.draws.chances(step, part, count)

    def begin(
        self,
        stream: Stream,
        parts: dict[str, Stateful],
        optimizers: list[Any],
        idle: Mapping[str, int] = MappingProxyType({}),
    ) -> None:
        """Take up the newest state, or start at step 0; then open the journal.

        Args:
            parts: what a state holds, by name.
            optimizers: those whose rate follows the schedule.
            idle: parts that are made from the seed alone and stay so for a number of steps, which a state leaves out
                until then.

        Raises:
            RecipeError: the folder holds another run.
            OutputError: it holds states that are none of a run's, where it is to be forgotten.
        """
        self._parts, self._optimizers, self._idle = parts, optimizers, dict(idle)
        self._fingerprint = f"{len(stream.images)} images {stream.images.fingerprint()}"
        epochs = self.recipe.train.epochs
        if epochs is not None:
            self.steps = max(1, math.ceil(epochs * len(stream.images) / self.shares.batch_size))
        if self._restart:  # only now, when nothing is left that could keep the run from its first step
            if self.leads:
                self.written.forget_run()
            self.processes.wait()
        self.stopping.start()
        if (state := newest_state(self.folder, self.say)) is not None:
            self._restore(state)
        if self.leads:
            limit = self.recipe.train.max_minutes
            length: dict[str, float] = {"steps": self.steps, "seconds": self.stopping.clock}
            length |= {"limit": 60 * limit} if limit else {}
            self.record.open(self.step, length, self.written, tensorboard=self.recipe.log.tensorboard)

    def _restore(self, state: dict[str, Any]) -> None:
        for change in changes_since(state, self.recipe, self._fingerprint, self.folder):
            self.say(change)
        kept = state["parts"]
        missing = (set(self._parts) ^ set(kept)) - (self._idle.keys() - set(kept))
        if missing:
            raise RecipeError(f"{self.folder} holds a run without or with {min(missing)}: name another output")
        for name in kept:
            self._parts[name].load_state_dict(kept[name])
            self._idle.pop(name, None)  # it has learned, whatever the recipe says by now
        self.step = self._saved = state["step"]
        self.stopping.start(state["seconds"])
        self.best = None if state["best"] is None else (state["best"][0], int(state["best"][1]))
        self.stopping.load_state_dict(state["divergence"])
        past = f", past the {self.steps} asked for: nothing more is learned" if self.step > self.steps else ""
        self.say(f"going on from step {self.step}{past}")

    def parts_of_steps(self, stream: Stream) -> Iterator[tuple[int, Iterator[Part]]]:
        """Each step's number (from 0) with the parts of its batch, from where the run stands to its end."""
        source = told_batches(stream, self.shares, self.step)
        self.record.restart_pace(self.step)
        with handled_signals(self.stopping.note_signal):
            while self.step < self.steps:
                step = self.step
                seed_generators(mixed(self.seed, 3, step, self.shares.rank))  # of dropout, if there is any
                for optimizer in self._optimizers:
                    set_rate(optimizer, scheduled(self.recipe.train, step, self.steps, self.stopping.clock))
                yield step, self._parts_of(source)
                if self._ended(step):
                    return

    def _parts_of(self, source: Iterator[Batch]) -> Iterator[Part]:
        for index in range(self.shares.parts):
            images, labels, captions = next(source)
            labels = labels if labels is None else labels.to(self.device, non_blocking=True)
            images = images.to(self.device, non_blocking=True)
            yield Part(images, index, index == self.shares.parts - 1, labels, captions)

    def _ended(self, step: int) -> bool:
        if self.step != step + 1:
            raise RuntimeError("the loop did not end its step with Run.finished")
        if self.stopping.signal:
            self.save()
            self.say(f"stopped at step {self.step}; the same command goes on from there")
            if self.judging is not None:
                self.say(f"until then: {self.judging}")
            raise SystemExit(128 + self.stopping.signal)
        if self.stopping.time_is_up and self.step < self.steps:
            self.say(f"{self.recipe.train.max_minutes:g} minutes are up at step {self.step} of {self.steps}")
            return True
        return False

    def checked(self, terms: dict[str, Tensor]) -> dict[str, float]:
        """The step's terms, averaged over its parts and processes, before any weight moves.

        Raises:
            TrainingError: one of them has diverged.
        """
        mine = [v.detach().float().reshape(()).to(self.device) for v in terms.values()]
        told = self.processes.average(torch.cat([torch.stack(mine), self.stopping.flags(self.device)])).tolist()
        self.stopping.agree(told[len(mine) :])
        values = dict(zip(terms, told, strict=False))
        self.see_sound(values)
        self._updating = True
        return values

    def see_sound(self, values: Mapping[str, float]) -> None:
        """Stop where a term is not a number, or far above what it was.

        Raises:
            TrainingError: it says which.
        """
        why = self.stopping.astray(values)
        if why is not None:
            kept = states(self.folder / "state")
            last = f"the last good state is that of step {kept[-1]}" if kept else "no state was written before it"
            self._saved = self.step  # what is in memory is not worth keeping
            raise TrainingError(
                f"diverged at step {self.step + 1}: {why}; {last} in {self.folder}. Lower train.learning_rate, or "
                "set train.clip=1, and start again"
            )

    def finished(self, record: Callable[[], dict[str, float]]) -> None:
        """End a step: count it, write its record and the state where they are due.

        Args:
            record: the step's numbers, made only when they are written.
        """
        self.step += 1
        self._updating = False
        last = self.step == self.steps or self.stopping.stops
        if self.leads and (last or self.step % self.recipe.log.every == 0):
            self.record.step(self.step, record(), self.stopping.seconds, self.shares.batch_size, self.device)

    def measured(self, values: dict[str, float], key: str, *, higher: bool) -> None:
        """Write down a measurement, and remember the best by `key`."""
        value = values[key] if higher else -values[key]
        if math.isfinite(value) and (self.best is None or value > self.best[0]):
            self.best = (value, self.step)
        self.record.measured(self.step, values)

    def show(self, pixels: Any) -> None:
        """Keep a picture of this step, uint8 (H, W, 3)."""
        self.record.picture(self.step, pixels, self.written)

    @property
    def progress(self) -> float:
        """How much of the run is over, from 0 to 1, as all processes agree."""
        return progress(self.recipe.train, self.step, self.steps, self.stopping.clock)

    @property
    def measures_now(self) -> bool:
        """Whether this step is one to measure after."""
        return self.step % self.recipe.log.validate_every == 0 or self.step == self.steps or self.stopping.time_is_up

    def save_if_due(self) -> None:
        """Write the state where the recipe wants it, and at the end."""
        is_best = self.best is not None and self.best[1] == self.step
        if (
            is_best
            or self.step % self.recipe.checkpoint.every == 0
            or self.step == self.steps
            or self.stopping.time_is_up
        ):
            self.save()

    def save(self) -> None:
        """Write the state as it is after the last finished step.

        Raises:
            OutputError: the disk does not take it; earlier states stay.
        """
        if not self.leads or self._saved == self.step:
            return
        place = self.folder / "state"
        self.written.note(state_path(place, self.step))
        write_state(
            place,
            self.step,
            {
                "step": self.step,
                "seconds": self.stopping.seconds,
                "best": None if self.best is None else list(self.best),
                "data": self._fingerprint,
                "recipe": recipe_data(self.recipe),
                "divergence": self.stopping.state_dict(),
                "parts": {n: p.state_dict() for n, p in self._parts.items() if self.step > self._idle.get(n, -1)},
            },
        )
        self._saved = self.step
        prune(place, self.recipe.checkpoint.keep, self.best[1] if self.best else None)

    def close(self, error: BaseException | None) -> None:
        """Keep what was reached when the run ends early, unless weights were just moving."""
        if error is not None and not self._updating and self.step > max(0, self._saved):
            with suppress(PrismifyError):
                self.save()
        self.record.close()


def _judging(recipe: Recipe, folder: Path, model: Any, trust: Trust) -> str | None:
    """The command that shows how good a model is that a recipe trained; of what gives no images back, its report."""
    if recipe.judging is None:
        return None
    command, options = recipe.judging
    if command == "prismify evaluate" and not callable(getattr(model, "encode", None)):
        command, options = "prismify report", ""
    elif trust.code:
        options += " --trust-code"
    return f"{command} {shlex.quote(str(folder))} {options}".rstrip()
