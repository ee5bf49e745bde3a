"""What a search leaves in its folder, and what is made of it: a plan, the weights that start it, and tables."""

from __future__ import annotations

import csv
import dataclasses
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..checkpoint.atomic import whole_file
from ..checkpoint.formats import read_state, write_safetensors
from ..checkpoint.manifest import read_json, write_json
from ..errors import OutputError, PlanError
from ..plan import Decision, Plan, with_rows
from ..scanning import NEAREST, UNTRAINED
from ..training.engine.written import Written
from .choosing import Budget, Option, choose
from .ladder import KEPT, Entry
from .library import Library
from .scoring import Scores

SCORES, WEIGHTS, TABLE = "scores.json", "library.safetensors", "table.csv"
#: What a plan says in place of "untrained", where its weights come along.
TAUGHT = "The new weights were taught block by block while they were searched; training the whole model comes next."
_VERSION = 1
#: The name of the policy in the plans that are written here.
_SEARCHED = "search"
#: Under which key some numbers of each of the searched model's tensors lie beside what the candidates have learned.
_MODEL = "model/"
#: How far those may be from one another: a model's weights stay its own in 16 bits.
_ALIKE = 1e-2


@dataclass(frozen=True)
class Outcome:
    """A finished search.

    Args:
        folder: where it lies.
        plan: of the model, keeping everything.
        entries: every candidate of every block, blocks as they are among them.
        scores: what was measured of them.
        source: the words that name the model for `prismify convert`.
        asked: the recipe of the search, as plain data; empty where nobody noted it.
    """

    folder: Path
    plan: Plan
    entries: tuple[Entry, ...]
    scores: Scores
    source: str
    asked: dict[str, Any] = field(default_factory=dict)

    @property
    def elsewhere(self) -> int:
        """Parameters that no choice changes."""
        return self.plan.parameters.before - sum(e.parameters for e in self.entries if e.candidate == KEPT)

    @property
    def macs_elsewhere(self) -> int:
        """Multiply-adds that no choice changes."""
        return self.plan.macs.before - sum(e.macs for e in self.entries if e.candidate == KEPT)

    @property
    def milliseconds_elsewhere(self) -> float:
        """What a pass takes beside the blocks."""
        pairs = zip(self.entries, self.scores.milliseconds, strict=True)
        return self.scores.total_milliseconds - sum(ms for entry, ms in pairs if entry.candidate == KEPT)

    def options(self) -> list[Option]:
        """The entries as numbers."""
        measured = zip(self.entries, self.scores.milliseconds, self.scores.error, strict=True)
        return [Option(e.block, e.parameters, e.macs, ms, error) for e, ms, error in measured]

    def within(self, budget: Budget) -> list[int]:
        """The best choice of entries for a budget of the whole model.

        Raises:
            PlanError: there is none; the message says what the least is, of the whole model.
        """
        rest = {
            "parameters": self.elsewhere, "macs": self.macs_elsewhere, "milliseconds": self.milliseconds_elsewhere,
        }  # fmt: skip
        names = {"parameters": "parameters", "macs": "multiply-adds", "milliseconds": "milliseconds"}
        options = self.options()
        blocks = dict.fromkeys(option.block for option in options)
        for name, fixed in rest.items():
            most = getattr(budget, name)
            least = fixed + sum(min(getattr(o, name) for o in options if o.block == block) for block in blocks)
            if most is not None and least > most * (1 + 1e-12):
                raise PlanError(
                    f"no choice of candidates has at most {number_text(most)} {names[name]}: "
                    f"the least is {number_text(least)}"
                )
        inner = {name: None if getattr(budget, name) is None else getattr(budget, name) - rest[name] for name in rest}
        if budget.error is not None and any(most is not None for most in inner.values()):
            least_error = sum(options[n].error for n in choose(options, Budget(**inner)))
            if least_error > budget.error * (1 + 1e-9):
                raise PlanError(
                    "no choice keeps these budgets together: within the others the least loss is "
                    f"{least_error / max(1e-30, self.scores.variance):.2g} of the output's variance (--max-error)"
                )
        return choose(options, Budget(**inner, error=budget.error))

    def drop(self, decibels: float) -> float:
        """The summed score by which the output's PSNR against the images falls by so many dB.

        Raises:
            PlanError: the model gives no images back.
        """
        return in_decibels(self.plan, self.scores.reference, decibels)

    def expected(self, chosen: Sequence[int]) -> dict[str, float]:
        """What a choice is expected to be: its sums, of the whole model."""
        options = [self.options()[n] for n in chosen]
        found = {
            "parameters": self.elsewhere + sum(o.parameters for o in options),
            "macs": self.macs_elsewhere + sum(o.macs for o in options),
            "milliseconds": self.milliseconds_elsewhere + sum(o.milliseconds for o in options),
            "relative_error": sum(o.error for o in options) / max(1e-30, self.scores.variance),
        }
        if self.scores.reference is not None:
            lost = 1 + sum(o.error for o in options) / max(1e-30, self.scores.reference)
            found["drop_db"] = 10 * math.log10(lost)
        return found


def write_outcome(outcome: Outcome, library: Library, model: nn.Module) -> None:
    """Keep a search in its folder.

    Args:
        library: with what the candidates have learned.
        model: that was searched.

    Raises:
        OutputError: the folder cannot be written.
    """
    folder, plan, entries, scores = outcome.folder, outcome.plan, outcome.entries, outcome.scores
    weights = {f"{key}/{name}": t for key in library.entries for name, t in library.weights_of(key).items()}
    weights |= {f"{_MODEL}{name}": numbers for name, numbers in _some_numbers(_own_tensors(model)).items()}
    with whole_file(folder / WEIGHTS) as draft:
        write_safetensors(weights, draft)
    with whole_file(folder / TABLE) as draft:
        draft.write_text(table_text(outcome), encoding="utf-8")
    rows = [{"block": e.block, "candidate": e.candidate, "rows": _plain(plan, e.rows)} for e in entries]
    content = {
        "version": _VERSION,
        "source": outcome.source,
        "asked": outcome.asked,
        "plan": plan.to_dict(),
        "entries": rows,
        "scores": dataclasses.asdict(scores),
    }
    with whole_file(folder / SCORES) as draft:  # last: where it is, all is
        write_json(draft, content)


def read_outcome(folder: Path) -> Outcome:
    """The search that a folder holds.

    Raises:
        PlanError: it holds none, or one that is not finished.
    """
    if not (folder / SCORES).is_file():
        unfinished = (folder / "state").is_dir()
        raise PlanError(
            f"{folder} holds a search that is not finished: give the same command again, with --data"
            if unfinished
            else f"{folder} holds no search: give a model, --data and -o"
        )
    content = read_json(folder / SCORES)
    if content.get("version") != _VERSION:
        raise PlanError(f"{folder / SCORES} was written by another version of prismify")
    try:
        plan = Plan.from_dict(content["plan"])
        entries = tuple(
            Entry(row["block"], row["candidate"], Plan.from_dict({**content["plan"], "layers": row["rows"]}).layers)
            for row in content["entries"]
        )
        pairs = {key: [(a, b) for a, b in content["scores"].get(key, [])] for key in ("random", "likely")}
        scores = Scores(**{**content["scores"], **pairs})
        return Outcome(folder, plan, entries, scores, content["source"], dict(content.get("asked", {})))
    except (KeyError, TypeError, ValueError) as error:
        raise PlanError(f"{folder / SCORES} is damaged ({error}): search again") from error


def write_plan(outcome: Outcome, chosen: Sequence[int], path: Path, said: str) -> Plan:
    """Write a choice as a plan, and beside it the weights that its candidates have learned.

    Args:
        chosen: numbers of entries, one for each block.
        path: the plan's, JSON; the weights get the same name with `.safetensors`.
        said: the budget in words, for the plan's notes.

    Raises:
        PlanError: nothing would change.
        OutputError: a file cannot be written.
    """
    entries = [(n, outcome.entries[n]) for n in chosen]
    if all(entry.candidate == KEPT for _, entry in entries):
        raise PlanError(f"with {said} every block stays as it is: there is nothing to convert")
    rows: dict[str, Decision] = {}
    for number, entry in entries:
        cost = outcome.scores.error[number] / max(1e-30, outcome.scores.variance)
        for row in entry.rows:
            words = f"{entry.candidate}, chosen by the search: {cost:.2g} of the output's variance for {entry.block}"
            rows[row.name] = dataclasses.replace(row, reason=words) if row.operator is not None else row
    plan = with_rows(outcome.plan, rows)
    plan = dataclasses.replace(plan, policy={"name": _SEARCHED}, notes=(f"Chosen by a search for {said}.", UNTRAINED))
    place_for(path, outcome.folder)
    keys = tuple(f"{number}/" for number, _ in entries)
    kept = read_state(outcome.folder / WEIGHTS)
    weights = {n.partition("/")[2]: t for n, t in kept.items() if n.startswith(keys)}
    weights |= {n: t for n, t in kept.items() if n.startswith(_MODEL)}
    with whole_file(path.with_suffix(".safetensors")) as draft:
        write_safetensors(weights, draft)
    with whole_file(path) as draft:
        write_json(draft, plan.to_dict())
    return plan


def is_of_search(path: Path) -> bool:
    """Whether a plan's file is one that a search of blocks wrote."""
    try:
        return bool(Plan.load(path).policy.get("name") == _SEARCHED)
    except PlanError:
        return False


def put_weights(model: nn.Module, path: Path | None) -> int:
    """Give a model that was converted by a search's plan the weights that lie beside the plan, if there are any.

    Returns:
        how many tensors there were.

    Raises:
        PlanError: they belong to another plan, or were learned beside other weights than this model's.
    """
    plan: Any = getattr(model, "prismify_plan", None)
    beside = path.with_suffix(".safetensors") if path is not None else None
    if beside is None or not beside.is_file() or plan is None or plan.policy.get("name") != _SEARCHED:
        return 0  # what lies beside a plan of another origin is something else
    read: dict[str, Tensor] = read_state(beside)
    weights = {name: tensor for name, tensor in read.items() if not name.startswith(_MODEL)}
    own = _own_tensors(model)
    for name, tensor in weights.items():
        if name not in own or own[name].shape != tensor.shape:
            raise PlanError(f"{beside}: {name} is no tensor of the plan's model: search again, or move the file away")
    others = _some_numbers({name: own[name] for name in sorted(own.keys() - weights.keys())})
    for name, numbers in others.items():
        searched = read.get(_MODEL + name, numbers)
        if not torch.allclose(numbers, searched, rtol=_ALIKE, equal_nan=True):
            raise PlanError(
                f"{beside} was learned beside other weights: {name} of this model is not the searched model's; convert "
                "that one, or move the file away and start untaught"
            )
    weights = {name: tensor.to(own[name].dtype) for name, tensor in weights.items()}
    model.load_state_dict(weights, strict=False, assign=any(own[name].is_meta for name in weights))
    notes = tuple(TAUGHT if note in (NEAREST, UNTRAINED) else note for note in plan.notes)
    model.prismify_plan = dataclasses.replace(plan, notes=notes)
    return len(weights)


def _own_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers by every name that they have."""
    return {**dict(model.named_parameters(remove_duplicate=False)), **dict(model.named_buffers(remove_duplicate=False))}


def _some_numbers(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A first, middle and last number of each tensor that has data, by which other weights are told from the same."""
    found = {}
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and tensor.numel() and not tensor.is_meta:
            flat = tensor.detach().reshape(-1)
            found[name] = flat[[0, flat.numel() // 2, flat.numel() - 1]].float().cpu()
    return found


def table_text(outcome: Outcome) -> str:
    """Every entry with what it costs, as CSV."""
    written = io.StringIO()
    table = csv.writer(written, lineterminator="\n")
    table.writerow(
        ["block", "candidate", "parameters", "macs", "milliseconds", "block_error", "output_error", "relative_error"]
    )
    scores = outcome.scores
    for n, entry in enumerate(outcome.entries):
        table.writerow(
            [
                entry.block,
                entry.candidate,
                entry.parameters,
                entry.macs,
                f"{scores.milliseconds[n]:.4g}",
                f"{scores.block_error[n]:.6g}",
                f"{scores.error[n]:.6g}",
                f"{scores.error[n] / max(1e-30, scores.variance):.6g}",
            ]
        )
    return written.getvalue()


def _plain(plan: Plan, rows: Sequence[Decision]) -> list[Any]:
    layers: list[Any] = dataclasses.replace(plan, layers=tuple(rows)).to_dict()["layers"]
    return layers


def place_for(path: Path, folder: Path) -> None:
    """Make the folder that a plan goes into; in the search's own it is noted, so that a search anew forgets it.

    Args:
        folder: the search's.

    Raises:
        OutputError: it cannot be made.
    """
    folder_for(path)
    if path.parent == folder / "plans":
        Written(folder).note(path, path.with_suffix(".safetensors"))


def folder_for(path: Path) -> None:
    """Make the folder that a file goes into.

    Raises:
        OutputError: it cannot be made.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{path} cannot be written: {error.strerror}") from error


def in_decibels(plan: Plan, reference: float | None, decibels: float) -> float:
    """The mean squared error, added to `reference` against the images, by which PSNR falls by so many dB.

    Raises:
        PlanError: there is no such reference, as the model gives no images back.
    """
    if reference is None:
        raise PlanError(f"{plan.model} gives no images back, so that no dB are known: bound --max-error")
    return float(reference * (10 ** (decibels / 10) - 1))


def number_text(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.4g}"
