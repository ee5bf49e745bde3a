"""A run: the accelerator, the folder, where it stands, and what it says. The recipes hold the loop itself."""

from __future__ import annotations

import math
import shlex
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from ...checkpoint import Trust
from ...errors import OutputError, PrismifyError, RecipeError, TrainingError
from ...generators import seed_generators
from ..data import Shares, Stream, batches, mixed
from ..losses import Divergence
from ..rates import scheduled, set_rate
from ..recipe import changed_keys, recipe_data, recorded_data
from ..schema import Recipe
from .events import Event, Watch
from .journal import METRICS_NAME, Journal, is_utf8
from .processes import unsynchronised
from .signals import handled_signals
from .state import prune, read_state, state_path, states, write_state
from .written import Written

#: What a run cannot change on the way and still be the same run.
_FIXED = ("recipe", "model.", "teacher", "data.size", "data.channels", "data.range", "train.seed")


class Stateful(Protocol):
    """What a state is made of."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: Any) -> Any: ...


@dataclass(frozen=True)
class Part:
    """A process's share of one part of a step's batch."""

    images: Tensor
    index: int
    last: bool


class Run:
    """Made by `open_run`; knows its folder, its processes and its step, and keeps its state."""

    def __init__(self, recipe: Recipe, accelerator: Any, watch: Watch, trust: Trust, *, restart: bool = False) -> None:
        self.recipe, self.accelerator, self.watch, self.trust = recipe, accelerator, watch, trust
        self.folder, self._restart = Path(recipe.output), restart
        self.written: Written  # of the process that leads, from `open_run`
        self.device: torch.device = accelerator.device
        train = recipe.train
        self.shares = Shares(train.batch_size, train.accumulation, accelerator.num_processes, accelerator.process_index)
        self.step = 0
        self.steps = train.steps or 0
        self.best: tuple[float, int] | None = None
        self._parts: dict[str, Stateful] = {}
        self._idle: dict[str, int] = {}
        self._optimizers: list[Any] = []
        self._journal: Journal | None = None
        self._seconds, self._since = 0.0, time.monotonic()
        self._saved = -1
        self._updating = False
        self._signal = 0
        self._fingerprint = ""
        self._noise: tuple[int, Tensor] | None = None
        self._divergence = Divergence(train.divergence)
        self._pace: tuple[float, int] = (time.monotonic(), 0)

    @property
    def leads(self) -> bool:
        """Whether this process writes and speaks for all."""
        return bool(self.accelerator.is_main_process)

    @property
    def seconds(self) -> float:
        """How long the run has trained, over all its starts."""
        return self._seconds + time.monotonic() - self._since

    @property
    def measuring(self) -> str:
        """The command that measures this run, for a shell."""
        return f"prismify evaluate {shlex.quote(str(self.folder))} --data IMAGES"

    def say(self, text: str) -> None:
        if self.leads:
            self.watch(Event("said", self.step, text))

    def average(self, value: Tensor) -> Tensor:
        """The mean of a tensor over the processes."""
        if self.shares.processes == 1:
            return value
        reduced: Tensor = self.accelerator.reduce(value, reduction="mean")
        return reduced

    def share_gradients(self, part: Part, *modules: nn.Module) -> AbstractContextManager[None]:
        """Gradients of all parts but the last are only added up here, and then averaged over processes at once."""
        if part.last or self.shares.processes == 1:
            return nullcontext()
        return unsynchronised(self.accelerator, modules)

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of one part's mean loss, so that they are those of the step's mean."""
        self.accelerator.backward(loss / self.shares.parts)

    def prepare(self, module: nn.Module | None, optimizer: Any) -> tuple[Any, Any]:
        """A module and its optimizer as this machine runs them: distributed, in mixed precision."""
        if module is None:
            return None, None
        prepared: tuple[Any, Any] = self.accelerator.prepare(module, optimizer)
        return prepared

    def bare(self, module: Any) -> Any:
        """The module that `prepare` was given."""
        return self.accelerator.unwrap_model(module)

    def clip(self, module: nn.Module, most: float | None) -> Tensor:
        """Cut gradients down to a norm; returns the norm they had."""
        norm: Tensor = self.accelerator.clip_grad_norm_(module.parameters(), math.inf if most is None else most)
        return norm.detach()

    def noise(self, step: int, part: Part, shape: tuple[int, ...]) -> Tensor:
        """Standard normal numbers for this process's images: the same for an image whoever computes it."""
        shares = self.shares
        if self._noise is None or self._noise[0] != step:
            drawn = torch.Generator().manual_seed(mixed(self.seed, 2, step))
            self._noise = (step, torch.randn((shares.batch_size, *shape), generator=drawn))
        mine = shares.positions(0, part.index)
        return self._noise[1][mine.start : mine.stop].to(self.device)

    @property
    def seed(self) -> int:
        return self.recipe.train.seed

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
            self.accelerator.wait_for_everyone()
        self._since = time.monotonic()
        state = self._newest()
        if state is not None:
            self._restore(state)
        if self.leads:
            log = self.recipe.log
            self.written.note(self.folder / METRICS_NAME)
            tensorboard = log.tensorboard and is_utf8(self.folder)
            if tensorboard != log.tensorboard:
                self.say(f"no TensorBoard: its writer takes no folder whose name is not UTF-8, as {self.folder}")
            boards = self.folder / "tensorboard"
            before = set(boards.glob("events.*"))
            self._journal = Journal(self.folder, self.step, tensorboard=tensorboard)
            self.written.note(*sorted(set(boards.glob("events.*")) - before))
            limit = self.recipe.train.max_minutes
            length = {"steps": self.steps, "seconds": self._seconds, **({"limit": 60 * limit} if limit else {})}
            self.watch(Event("began", self.step, values=length))

    def _newest(self) -> dict[str, Any] | None:
        for step in reversed(states(self.folder / "state")):
            try:
                return read_state(self.folder / "state", step)
            except OutputError as error:
                self.say(f"{error}; taking the one before")
        return None

    def _restore(self, state: dict[str, Any]) -> None:
        before = recorded_data(state["recipe"], str(self.folder))  # with what was not known then
        changed = changed_keys(before, recipe_data(self.recipe))
        changed.pop("output", None)
        for key, (before, after) in changed.items():
            if key.startswith(_FIXED):
                raise RecipeError(
                    f"{self.folder} holds a run with {key}={before}, not {after}: name another output, or --restart"
                )
            self.say(f"changed since step {state['step']}: {key} was {before}, is {after}")
        if state["data"] != self._fingerprint:
            self.say(
                f"the images changed since step {state['step']} ({state['data']}; now {self._fingerprint}): "
                "the run goes on, in another order than it would have"
            )
        kept = state["parts"]
        missing = (set(self._parts) ^ set(kept)) - (self._idle.keys() - set(kept))
        if missing:
            raise RecipeError(f"{self.folder} holds a run without or with {min(missing)}: name another output")
        for name in kept:
            self._parts[name].load_state_dict(kept[name])
            self._idle.pop(name, None)  # it has learned, whatever the recipe says by now
        self.step = self._saved = state["step"]
        self._seconds, self._since = state["seconds"], time.monotonic()
        self._clock = self._seconds
        self.best = None if state["best"] is None else (state["best"][0], int(state["best"][1]))
        self._divergence.load_state_dict(state["divergence"])
        self.say(f"going on from step {self.step}")

    def parts_of_steps(self, stream: Stream) -> Iterator[tuple[int, Iterator[Part]]]:
        """Each step's number (from 0) with the parts of its batch, from where the run stands to its end."""
        source = batches(stream, self.shares, self.step)
        self._pace = (time.monotonic(), self.step)
        with handled_signals(self._note_signal):
            while self.step < self.steps:
                step = self.step
                seed_generators(mixed(self.seed, 3, step, self.shares.rank))  # of dropout, if there is any
                for optimizer in self._optimizers:
                    set_rate(optimizer, scheduled(self.recipe.train, step, self.steps, self._clock))
                yield step, self._parts_of(source)
                if self._ended(step):
                    return

    def _parts_of(self, source: Iterator[Tensor]) -> Iterator[Part]:
        for index in range(self.shares.parts):
            yield Part(next(source).to(self.device, non_blocking=True), index, index == self.shares.parts - 1)

    def _ended(self, step: int) -> bool:
        if self.step != step + 1:
            raise RuntimeError("the loop did not end its step with Run.finished")
        if self._stop:
            self.save()
            self.say(f"stopped at step {self.step}; the same command goes on from there")
            self.say(f"until then: {self.measuring}")
            raise SystemExit(128 + self._stop)
        limit = self.recipe.train.max_minutes
        if self._time_is_up and self.step < self.steps:
            self.say(f"{limit:g} minutes are up at step {self.step} of {self.steps}")
            return True
        return False

    def checked(self, terms: dict[str, Tensor]) -> dict[str, float]:
        """The step's terms, averaged over its parts and processes, before any weight moves.

        Raises:
            TrainingError: one of them has diverged.
        """
        limit = self.recipe.train.max_minutes
        late = limit is not None and self.seconds > 60 * limit
        mine = [v.detach().float().reshape(()).to(self.device) for v in terms.values()]
        flags = torch.tensor([self.seconds, float(late), float(self._signal)], device=self.device)
        told = self.average(torch.cat([torch.stack(mine), flags])).tolist()
        self._clock, self._time_is_up, self._stop = told[-3], told[-2] > 0, math.ceil(told[-1])
        values = dict(zip(terms, told, strict=False))
        self.see_sound(values)
        self._updating = True
        return values

    _clock = 0.0  # what the processes agree on
    _time_is_up = False
    _stop = 0

    def see_sound(self, values: Mapping[str, float]) -> None:
        """Stop where a term is not a number, or far above what it was.

        Raises:
            TrainingError: it says which.
        """
        why = self._divergence.see(values)
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
        last = self.step == self.steps or self._time_is_up or self._stop > 0
        if self.leads and (last or self.step % self.recipe.log.every == 0):
            values = {**record(), **self._speed(), "seconds": self.seconds}
            assert self._journal is not None
            self._journal.write("train", self.step, values)
            self.watch(Event("step", self.step, values=values))

    def measured(self, values: dict[str, float], key: str, *, higher: bool) -> None:
        """Write down a measurement, and remember the best by `key`."""
        value = values[key] if higher else -values[key]
        if math.isfinite(value) and (self.best is None or value > self.best[0]):
            self.best = (value, self.step)
        if self.leads:
            assert self._journal is not None
            self._journal.write("validation", self.step, values)
            self.watch(Event("measured", self.step, values=values))

    def show(self, pixels: Any) -> None:
        """Keep a picture of this step, uint8 (H, W, 3)."""
        from ..pictures import write_png

        assert self._journal is not None
        path = self.folder / "images" / f"step-{self.step:08d}.png"
        self.written.note(path)
        write_png(path, pixels)
        self._journal.picture(self.step, pixels)

    @property
    def measures_now(self) -> bool:
        """Whether this step is one to measure after."""
        return self.step % self.recipe.log.validate_every == 0 or self.step == self.steps or self._time_is_up

    def save_if_due(self) -> None:
        """Write the state where the recipe wants it, and at the end."""
        is_best = self.best is not None and self.best[1] == self.step
        if is_best or self.step % self.recipe.checkpoint.every == 0 or self.step == self.steps or self._time_is_up:
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
                "seconds": self.seconds,
                "best": None if self.best is None else list(self.best),
                "data": self._fingerprint,
                "recipe": recipe_data(self.recipe),
                "divergence": self._divergence.state_dict(),
                "parts": {n: p.state_dict() for n, p in self._parts.items() if self.step > self._idle.get(n, -1)},
            },
        )
        self._saved = self.step
        prune(place, self.recipe.checkpoint.keep, self.best[1] if self.best else None)

    def _speed(self) -> dict[str, float]:
        now = time.monotonic()
        (before, step), self._pace = self._pace, (now, self.step)
        speed = {"images_per_second": (self.step - step) * self.shares.batch_size / max(1e-9, now - before)}
        if self.device.type == "cuda":
            speed["gpu_memory_gib"] = torch.cuda.max_memory_allocated(self.device) / 2**30
        return speed

    def _note_signal(self, number: int, frame: object) -> None:
        if self._signal:  # asked twice: now
            raise KeyboardInterrupt
        self._signal = number

    def close(self, error: BaseException | None) -> None:
        """Keep what was reached when the run ends early, unless weights were just moving."""
        if error is not None and not self._updating and self.step > max(0, self._saved):
            with suppress(PrismifyError):
                self.save()
        if self._journal is not None:
            self._journal.close()
