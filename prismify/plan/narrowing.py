"""Policy narrow: which widths lose channels, and what that makes of the layers and norms along them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from math import prod

from ..errors import PlanError
from ..facts import Layer
from ..facts.count import Counted
from ..graph.dataflow import Width
from ..layers import Operator
from .policies import Policy, Verdict

#: What a plan calls it.
NARROW = "Narrow"


@dataclass(frozen=True)
class Narrowed:
    """What becomes of layers, and of the norms between them, by name."""

    layers: dict[str, Verdict]
    norms: dict[str, Verdict]


def narrowed(layers: Iterable[Layer], widths: Collection[Width], policy: Policy) -> Narrowed:
    """What policy narrow makes of every layer, and of every norm along a width."""
    chosen = {width.name: channels for width in widths if (channels := _channels_left(width, policy)) < width.channels}
    made = {name: width for width in widths for name in width.makers}
    read = {name: width for width in widths for name in width.readers}
    verdicts = {}
    for layer in layers:
        ends = {
            end: width
            for end, width in (("reads", read.get(layer.name)), ("makes", made.get(layer.name)))
            if width is not None and width.name in chosen
        }
        if not ends:
            verdicts[layer.name] = Verdict(None, "width", _why_not(made.get(layer.name), policy))
            continue
        options = {end: {width.name: chosen[width.name]} for end, width in ends.items()}
        words = [f"{end} {chosen[w.name]} of {w.channels} channels (those of {w.name})" for end, w in ends.items()]
        verdicts[layer.name] = Verdict(Operator(NARROW, options=options), "replaced", " and ".join(words))
    norms = {
        name: Verdict(
            Operator(NARROW, options={"makes": {width.name: chosen[width.name]}}),
            "replaced",
            f"of {chosen[width.name]} of {width.channels} channels (those of {width.name})",
        )
        for width in widths
        if width.name in chosen
        for name in width.norms
    }
    return Narrowed(verdicts, norms)


def check_widths(widths: Iterable[Width], operators: Mapping[str, Operator | None]) -> None:
    """See that all that stands along a width has the same number of channels.

    Args:
        operators: of layers and norms, by name.

    Raises:
        PlanError: a plan narrows one and not the other.
    """
    made: dict[tuple[str, str], Width] = {}
    for width in widths:
        along = [("makes", name) for name in (*width.makers, *width.norms)] + [("reads", n) for n in width.readers]
        left = {(end, name): _left_by(operators.get(name), end) for end, name in along}
        made |= dict.fromkeys(left, width)
        if len(set(left.values())) > 1:
            (_, one), (_, other) = (
                next(k for k, v in left.items() if v == value) for value in list(set(left.values()))[:2]
            )
            raise PlanError(f"{one} and {other} stand along one width ({width.name}): narrow both to the same channels")
        if width.obstacle is not None and set(left.values()) != {None}:
            raise PlanError(f"the channels of {width.name} cannot be fewer: {width.obstacle}")
    for name, operator in operators.items():
        for end in ("reads", "makes"):
            if _left_by(operator, end) is not None and (end, name) not in made:
                raise PlanError(f"{name}: what it {end} is no width that could be narrowed")


def count_narrow(operator: Operator, layer: Layer) -> Counted:
    """The numbers and multiply-adds of a narrowed layer or norm."""
    reads, makes = _left_by(operator, "reads") or layer.in_channels, _left_by(operator, "makes") or layer.out_channels
    if layer.kind == "norm":
        return Counted(makes, makes, 0)
    weights = reads * makes * prod(layer.kernel_size)
    whole = layer.in_channels * layer.out_channels
    return Counted(weights, makes if layer.bias else 0, layer.macs * reads * makes // max(1, whole))


def makes_fewer(operator: Operator | None) -> bool:
    """Whether a layer makes fewer channels with an operator in its place."""
    return _left_by(operator, "makes") is not None


def _left_by(operator: Operator | None, end: str) -> int | None:
    """How many channels an operator leaves of what a layer reads or makes; None for all."""
    if operator is None or operator.type != NARROW:
        return None
    named = operator.options.get(end)
    return next(iter(named.values()), None) if isinstance(named, dict) else None


def _channels_left(width: Width, policy: Policy) -> int:
    members = (*width.makers, *width.readers)
    if width.obstacle is not None or width.channels < policy.min_width:
        return width.channels
    if policy.include and not all(any(fnmatchcase(name, p) for p in policy.include) for name in members):
        return width.channels
    if any(fnmatchcase(name, p) for name in members for p in policy.exclude):
        return width.channels
    wanted = policy.width if policy.width is not None else width.channels * (policy.share or 0.5)
    return min(width.channels, max(1, round(wanted / width.step)) * width.step)


def _why_not(width: Width | None, policy: Policy) -> str:
    if width is None:
        return "no graph shows what becomes of its channels"
    if width.obstacle is not None:
        return f"its channels stay: {width.obstacle}"
    return "its channels stay by --include, --exclude, --min-width, or because there are no more than wanted"
