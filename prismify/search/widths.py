"""Channels under a budget: how many each width of a model keeps, and what a search of them leaves in its folder."""

from __future__ import annotations

import csv
import dataclasses
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..checkpoint.atomic import whole_file
from ..checkpoint.manifest import read_json, write_json
from ..errors import PlanError, one_line
from ..plan import Decision, Plan
from ..plan.narrowing import numbers_left, widths_of_plan, with_channels
from ..scanning import NEAREST
from .choosing import Budget
from .curves import Curve
from .outcome import in_decibels, is_of_search, number_text, place_for

WIDTHS = "widths.json"
#: What a bound on milliseconds is told.
NO_TIMES = "no milliseconds are known of widths: bound the parameters or the multiply-adds"
_VERSION = 1
#: The name of the policy in the plans that are written here; no weights come with them.
_POLICY = "widths"


@dataclass(frozen=True)
class Spread:
    """How the output of the searched model spreads on images, and how far the curves' sums can be trusted.

    Args:
        variance: of the model's output.
        reference: mean squared error between output and images, where the model gives images back; None elsewhere.
        images: how many were looked at.
        correlation: Spearman's, between summed errors and the error of random choices as it is before any training.
        random: (sum, error) of each of them.
    """

    variance: float
    reference: float | None = None
    images: int = 0
    correlation: float = 0.0
    random: list[tuple[float, float]] = field(default_factory=list)


@dataclass(frozen=True)
class WidthsOutcome:
    """A finished search of widths.

    Args:
        folder: where it lies.
        plan: of policy narrow, leaving of every width as few channels as can be.
        curves: of those widths.
        spread: what was measured beside.
        source: the words that name the model for `prismify convert`.
        asked: the recipe of the search, as plain data; empty where nobody noted it.
    """

    folder: Path
    plan: Plan
    curves: tuple[Curve, ...]
    spread: Spread
    source: str
    asked: dict[str, Any] = field(default_factory=dict)

    def within(self, budget: Budget) -> dict[str, int]:
        """Channels left of every width, under a budget of the whole model: name -> channels.

        Step by step the width gives channels up that loses the least for each number saved, until the budget is kept;
        with a bound on the error alone, until no step keeps it.

        That is near the best choice, and not proven to be it.

        Raises:
            PlanError: no such choice keeps the budget, or it bounds milliseconds, which nobody measured.
        """
        if budget.milliseconds is not None:
            raise PlanError(NO_TIMES)
        choice = _Choice(self.plan, self.curves)
        most = {"parameters": budget.parameters, "macs": budget.macs}
        bounded = any(bound is not None for bound in most.values())
        while choice.exceeds(most) or (not bounded and budget.error is not None):
            if not choice.shrink(most, budget.error):
                break
        for name, words in (("parameters", "parameters"), ("macs", "multiply-adds")):
            bound, least = most[name], choice.totals[name]
            if bound is not None and least > bound:
                raise PlanError(
                    f"no widths have at most {number_text(bound)} {words}: the least is {number_text(least)}"
                )
        if budget.error is not None and choice.error > budget.error:
            raise PlanError(
                "no widths were found that keep these budgets together: allow more error, or more parameters"
            )
        return choice.left

    def plan_of(self, left: Mapping[str, int]) -> Plan:
        """The plan that leaves so many channels."""
        return with_channels(self.plan, left)

    def drop(self, decibels: float) -> float:
        """The summed error by which the output's PSNR against the images falls by so many dB.

        Raises:
            PlanError: the model gives no images back.
        """
        return in_decibels(self.plan, self.spread.reference, decibels)

    def expected(self, left: Mapping[str, int]) -> dict[str, float]:
        """What a choice is expected to be, before any training: its sums, of the whole model."""
        plan = self.plan_of(left)
        error = sum(curve.errors[curve.levels.index(left[curve.name])] for curve in self.curves)
        found = {
            "parameters": plan.parameters.after,
            "macs": plan.macs.after,
            "relative_error": error / max(1e-30, self.spread.variance),
        }
        if self.spread.reference is not None:
            found["drop_db"] = 10 * math.log10(1 + error / max(1e-30, self.spread.reference))
        return found


class _Choice:
    """Channels left of every width, and what they sum up to."""

    def __init__(self, plan: Plan, curves: Sequence[Curve]) -> None:
        self.curves = {curve.name: curve for curve in curves}
        self.level = {curve.name: len(curve.levels) - 1 for curve in curves}
        self.left = {curve.name: curve.channels for curve in curves}
        self.error = 0.0
        self.totals = {"parameters": plan.parameters.before, "macs": plan.macs.before}
        self._along: dict[str, list[Decision]] = {name: [] for name in self.curves}
        for row in plan.replaced:
            for name in widths_of_plan(dataclasses.replace(plan, layers=(row,))):
                self._along[name].append(row)
        self._steps: dict[str, tuple[float, dict[str, int]]] = {}

    def exceeds(self, most: Mapping[str, float | None]) -> bool:
        """Whether a bound is not kept yet."""
        return any(bound is not None and self.totals[name] > bound for name, bound in most.items())

    def shrink(self, most: Mapping[str, float | None], allowed: float | None) -> bool:
        """Take the step that loses the least for what is still to be saved; False where there is none."""
        wanted = [name for name, bound in most.items() if bound is not None and self.totals[name] > bound]
        best: tuple[float, str] | None = None
        for name, level in self.level.items():
            if level == 0:
                continue
            if name not in self._steps:
                self._steps[name] = self._step(name)
            lost, saved = self._steps[name]
            if not wanted and allowed is not None and self.error + lost > allowed:
                continue
            gain = sum(saved[measure] / self.totals[measure] for measure in wanted or ("parameters",))
            if gain > 0 and (best is None or lost / gain < best[0]):
                best = lost / gain, name
        if best is None:
            return False
        self._take(best[1])
        return True

    def _step(self, name: str) -> tuple[float, dict[str, int]]:
        """What one step of a width loses and saves."""
        curve, level = self.curves[name], self.level[name]
        fewer = {**self.left, name: curve.levels[level - 1]}
        before, after = (self._numbers(name, left) for left in (self.left, fewer))
        saved = {measure: before[measure] - after[measure] for measure in before}
        return curve.errors[level - 1] - curve.errors[level], saved

    def _numbers(self, name: str, left: Mapping[str, int]) -> dict[str, int]:
        parameters, macs = map(sum, zip(*(numbers_left(row, left) for row in self._along[name]), strict=True))
        return {"parameters": parameters, "macs": macs}

    def _take(self, name: str) -> None:
        lost, saved = self._steps[name]
        self.error += lost
        for measure, number in saved.items():
            self.totals[measure] -= number
        self.level[name] -= 1
        self.left[name] = self.curves[name].levels[self.level[name]]
        rows = {row.name for row in self._along[name]}
        for other, along in self._along.items():  # what they save depends on one another
            if other == name or any(row.name in rows for row in along):
                self._steps.pop(other, None)


def write_widths(outcome: WidthsOutcome) -> None:
    """Keep a search of widths in its folder.

    Raises:
        OutputError: the folder cannot be written.
    """
    content = {
        "version": _VERSION,
        "source": outcome.source,
        "asked": outcome.asked,
        "plan": outcome.plan.to_dict(),
        "curves": [dataclasses.asdict(curve) for curve in outcome.curves],
        "spread": dataclasses.asdict(outcome.spread),
    }
    with whole_file(outcome.folder / "table.csv") as draft:
        draft.write_text(_table_text(outcome), encoding="utf-8")
    with whole_file(outcome.folder / WIDTHS) as draft:  # last: where it is, all is
        write_json(draft, content)


def read_widths(folder: Path) -> WidthsOutcome:
    """The search of widths that a folder holds.

    Raises:
        PlanError: it holds none, or one that is damaged, or written by another version.
    """
    if not (folder / WIDTHS).is_file():
        raise PlanError(f"{folder} holds no search of widths")
    content = read_json(folder / WIDTHS)
    if content.get("version") != _VERSION:
        raise PlanError(f"{folder / WIDTHS} was written by another version of prismify")
    try:
        curves = tuple(
            Curve(c["name"], int(c["channels"]), tuple(map(int, c["levels"])), tuple(map(float, c["errors"])))
            for c in content["curves"]
        )
        spread = content["spread"]
        spread = Spread(
            float(spread["variance"]),
            None if spread["reference"] is None else float(spread["reference"]),
            int(spread["images"]),
            float(spread["correlation"]),
            [(float(a), float(b)) for a, b in spread["random"]],
        )
        plan, asked = Plan.from_dict(content["plan"]), dict(content.get("asked", {}))
        outcome = WidthsOutcome(folder, plan, curves, spread, str(content["source"]), asked)
        if {curve.name for curve in curves} != set(widths_of_plan(outcome.plan)):
            raise ValueError("curves of other widths than the plan's")
        for curve in curves:
            rising = list(curve.levels) == sorted(set(curve.levels)) and curve.levels[-1:] == (curve.channels,)
            if not rising or len(curve.levels) != len(curve.errors) or not all(map(math.isfinite, curve.errors)):
                raise ValueError(f"the curve of {curve.name}")
        return outcome
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise PlanError(f"{folder / WIDTHS} is damaged ({one_line(error)}): search again") from error


def write_widths_plan(outcome: WidthsOutcome, left: Mapping[str, int], path: Path, said: str) -> Plan:
    """Write a choice of widths as a plan.

    Args:
        left: channels by the name of a width.
        path: the plan's, JSON.
        said: the budget in words, for the plan's notes.

    Raises:
        PlanError: nothing would change.
        OutputError: the file cannot be written.
    """
    if all(left[curve.name] == curve.channels for curve in outcome.curves):
        raise PlanError(f"with {said} every width stays as it is: there is nothing to convert")
    plan = outcome.plan_of(left)
    plan = dataclasses.replace(plan, policy={"name": _POLICY}, notes=(f"Chosen by a search for {said}.", NEAREST))
    place_for(path, outcome.folder)
    if path.is_file() and path.with_suffix(".safetensors").is_file() and is_of_search(path):
        path.with_suffix(".safetensors").unlink()  # what the candidates of an earlier plan had learned
    with whole_file(path) as draft:
        write_json(draft, plan.to_dict())
    return plan


def _table_text(outcome: WidthsOutcome) -> str:
    """Every width at every level with what it is expected to cost, as CSV."""
    written = io.StringIO()
    table: Any = csv.writer(written, lineterminator="\n")
    table.writerow(["width", "channels", "left", "output_error", "relative_error"])
    for curve in outcome.curves:
        for left, error in zip(curve.levels, curve.errors, strict=True):
            relative = error / max(1e-30, outcome.spread.variance)
            table.writerow([curve.name, curve.channels, left, f"{error:.6g}", f"{relative:.6g}"])
    return written.getvalue()
