"""Policy narrow: which widths lose channels, and what that makes of the layers and norms along them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from math import lcm, prod

from ..errors import PlanError
from ..facts import Layer
from ..facts.count import Counted
from ..graph.dataflow import Width, Widths
from ..layers import Operator
from .plan import Decision, Plan, with_rows
from .policy import Policy, Verdict

#: What a plan calls it.
NARROW = "Narrow"


@dataclass(frozen=True)
class Narrowed:
    """What becomes of layers, and of the norms between them, by name."""

    layers: dict[str, Verdict]
    norms: dict[str, Verdict]


def narrowed(layers: Iterable[Layer], widths: Widths, policy: Policy) -> Narrowed:
    """What policy narrow makes of every layer, and of every norm along a width.

    Raises:
        PlanError: a pattern of `shares` matches no width.
    """
    for pattern in policy.shares:
        if not any(fnmatchcase(width.name, pattern) for width in widths.rows):
            like = f"; names look like {widths.rows[0].name!r}" if widths.rows else ""
            raise PlanError(f"--share {pattern!r} matches no width, which are named after their first makers{like}")
    rows = {width.name: width for width in widths.rows}
    left = {width.name: _channels_left(width, policy) for width in widths.rows}
    made = {layer: width for width in widths.rows for layer in width.makers}
    verdicts = {}
    for layer in layers:
        ends = {"reads": widths.read.get(layer.name, ()), "makes": _names(made.get(layer.name))}
        ends = {end: names for end, names in ends.items() if any(left[n] < rows[n].channels for n in names)}
        if not ends:
            verdicts[layer.name] = Verdict(None, "width", _why_not(made.get(layer.name)))
            continue
        words = " and ".join(f"{end} {_words(names, rows, left)}" for end, names in ends.items())
        options = {end: {name: left[name] for name in names} for end, names in ends.items()}
        verdicts[layer.name] = Verdict(Operator(NARROW, options=options), "replaced", words)
    norms = {}
    for norm in dict.fromkeys(name for width in widths.rows for name in width.norms):
        names = widths.read.get(norm, ())
        if any(left[name] < rows[name].channels for name in names):
            operator = Operator(NARROW, options={"makes": {name: left[name] for name in names}})
            norms[norm] = Verdict(operator, "replaced", f"of {_words(names, rows, left)}")
    return Narrowed(verdicts, norms)


def check_widths(widths: Widths, operators: Mapping[str, Operator | None]) -> None:
    """See that all that stands along a width has the same number of channels.

    Args:
        operators: of layers and norms, by name.

    Raises:
        PlanError: a plan narrows one and not the other.
    """
    ends = {("reads", name): names for name, names in widths.read.items()}
    ends |= {("makes", norm): widths.read.get(norm, ()) for width in widths.rows for norm in width.norms}
    ends |= {("makes", layer): (width.name,) for width in widths.rows for layer in width.makers}
    for name, operator in operators.items():
        for end in ("reads", "makes"):
            named = _left_by(operator, end)
            if named and tuple(named) != ends.get((end, name)):
                raise PlanError(
                    f"{name}: what it {end} is not {', '.join(named)}: see what scan --policy narrow writes"
                )
    for width in widths.rows:
        along = [("makes", name) for name in (*width.makers, *width.norms)] + [("reads", n) for n in width.readers]
        left = {name: _left_by(operators.get(name), end).get(width.name, width.channels) for end, name in along}
        if len(set(left.values())) > 1:
            one, other = (next(n for n, count in left.items() if count == c) for c in sorted(set(left.values()))[:2])
            raise PlanError(f"{one} and {other} stand along one width ({width.name}): narrow both to the same channels")
        if width.obstacle is not None and set(left.values()) != {width.channels}:
            raise PlanError(f"the channels of {width.name} cannot be fewer: {width.obstacle}")


def count_narrow(operator: Operator, layer: Layer) -> Counted:
    """The numbers and multiply-adds of a narrowed layer or norm."""
    reads = sum(_left_by(operator, "reads").values()) or layer.in_channels
    makes = sum(_left_by(operator, "makes").values()) or layer.out_channels
    if layer.kind == "norm":
        numbers = layer.parameters // layer.out_channels * makes
        biases = numbers // 2 if layer.bias else 0
        return Counted(numbers - biases, biases, 0)
    weights = reads * makes * prod(layer.kernel_size)
    whole = layer.in_channels * layer.out_channels
    return Counted(weights, makes if layer.bias else 0, layer.macs * reads * makes // max(1, whole))


def with_channels(plan: Plan, left: Mapping[str, int]) -> Plan:
    """A plan of policy narrow with other numbers of channels left, counted anew.

    Args:
        plan: one that narrows every width of `left`, and no other.
        left: channels by the name of a width; as many as there are leave it as it is.
    """
    rows = {row.name: row for row in plan.layers}
    most = {name: rows[name].out_channels for name in left}
    return with_rows(plan, {row.name: _again(row, left, most) for row in plan.replaced})


def numbers_left(row: Decision, left: Mapping[str, int]) -> tuple[int, int]:
    """(parameters, multiply-adds) of a row of such a plan, with so many channels left of its widths."""
    reads, makes = (sum(left[name] for name in _left_by(row.operator, end)) for end in ("reads", "makes"))
    reads, makes = reads or row.in_channels, makes or row.out_channels
    if row.kind == "norm":
        return row.parameters_before // row.out_channels * makes, 0
    weights = row.in_channels * row.out_channels * prod(row.kernel_size)
    biases = makes if row.parameters_before > weights else 0
    macs = row.macs_before * reads * makes // (row.in_channels * row.out_channels)
    return reads * makes * prod(row.kernel_size) + biases, macs


def _again(row: Decision, left: Mapping[str, int], most: Mapping[str, int]) -> Decision:
    ends = {end: {name: left[name] for name in _left_by(row.operator, end)} for end in ("reads", "makes")}
    ends = {end: own for end, own in ends.items() if any(left[name] < most[name] for name in own)}
    if not ends:
        why = "all the channels along it stay"
        return dataclasses.replace(
            row, decision="keep", operator=None, rule="width", reason=why,
            parameters_after=row.parameters_before, macs_after=row.macs_before,
        )  # fmt: skip
    said = (
        ", ".join(f"{n} of {most[name]} channels (those of {name})" for name, n in own.items()) for own in ends.values()
    )
    words = "of " if row.kind == "norm" else ""
    reason = words + " and ".join(f"{'' if words else f'{end} '}{text}" for end, text in zip(ends, said, strict=True))
    parameters, macs = numbers_left(row, left)
    return dataclasses.replace(
        row, operator=Operator(NARROW, options=ends), reason=reason, parameters_after=parameters, macs_after=macs
    )


def widths_of_plan(plan: Plan) -> dict[str, int]:
    """The widths that a plan of policy narrow narrows, by name, with the channels that it leaves."""
    found: dict[str, int] = {}
    for row in plan.replaced:
        for end in ("reads", "makes"):
            found |= _left_by(row.operator, end)
    return found


def reads_of(row: Decision) -> tuple[str, ...]:
    """The names of the widths that a narrowed layer reads fewer channels of, side by side."""
    return tuple(_left_by(row.operator, "reads"))


def makes_fewer(operator: Operator | None) -> bool:
    """Whether a layer makes fewer channels with an operator in its place."""
    return bool(_left_by(operator, "makes"))


def narrow_text(operator: Operator, in_channels: int, out_channels: int) -> str:
    """What is left of a layer's widths: "32→16"."""
    reads = sum(_left_by(operator, "reads").values()) or in_channels
    return f"{reads}→{sum(_left_by(operator, 'makes').values()) or out_channels}"


def _left_by(operator: Operator | None, end: str) -> dict[str, int]:
    """How many channels an operator leaves of the widths that a layer reads or makes; empty for all."""
    named = operator.options.get(end) if operator is not None and operator.type == NARROW else None
    return named if isinstance(named, dict) and all(isinstance(n, int) for n in named.values()) else {}


def _names(width: Width | None) -> tuple[str, ...]:
    return () if width is None else (width.name,)


def _words(names: Iterable[str], rows: Mapping[str, Width], left: Mapping[str, int]) -> str:
    return ", ".join(f"{left[name]} of {rows[name].channels} channels (those of {name})" for name in names)


def _channels_left(width: Width, policy: Policy) -> int:
    members = (*width.makers, *width.readers)
    if width.obstacle is not None or width.channels < policy.min_width:
        return width.channels
    if policy.include and not all(any(fnmatchcase(name, p) for p in policy.include) for name in members):
        return width.channels
    if any(fnmatchcase(name, p) for name in members for p in policy.exclude):
        return width.channels
    share = next((s for pattern, s in policy.shares.items() if fnmatchcase(width.name, pattern)), None)
    wanted = width.channels * (share or policy.share or 0.5)
    if share is None and policy.width is not None:
        wanted = policy.width
    step = width.step
    if width.channels > lcm(step, policy.multiple):
        step = lcm(step, policy.multiple)
    return min(width.channels, max(1, round(wanted / step)) * step)


def _why_not(width: Width | None) -> str:
    if width is None:
        return "no graph shows what becomes of its channels"
    if width.obstacle is not None:
        return f"its channels stay: {width.obstacle}"
    return "its channels stay by --include, --exclude, --min-width, or because there are no more than wanted"
