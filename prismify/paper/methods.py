"""What Figure 1 compares: ways to make the autoencoder small, as changes of a budget's recipe. Plain data."""

from __future__ import annotations

from dataclasses import dataclass

from .budgets import Budget


@dataclass(frozen=True)
class Method:
    """One way at one size.

    Args:
        family: what is varied within it.
        name: of this size.
        sets: changes of the recipe.
    """

    family: str
    name: str
    sets: tuple[str, ...]


DEEP_PRISM, DENSE = "DeepPrism", "dense"


def methods(budget: Budget) -> tuple[Method, ...]:
    """Around the budget's C: DeepPrism of three widths and three depths of volumes, and other ways to small layers."""
    c = budget.channels
    own = _widths(c)

    def other(family: str, name: str, convert: str, widths: tuple[str, ...] = own) -> Method:
        rate = (f"train.learning_rate={budget.rates[family]:g}",) if family in budget.rates else ()
        return Method(family, name, (*widths, f"model.convert={convert}", "train.fuse=false", *rate))

    def operator(family: str, name: str, text: str) -> Method:
        return other(family, name, f"{{name: paper, {text}}}")

    return (
        *(Method(DEEP_PRISM, f"C = {width}", _widths(width)) for width in (c // 2, c, 2 * c)),
        *(
            Method(
                "DeepPrism, volumes",
                f"C = {c}, volumes of {depth}",
                (*own, f"model.convert={{name: volumes, depth: {depth}, min_volume: 8}}"),
            )
            for depth in (c // 2, c // 4, c // 8)
        ),
        *(
            operator(
                "group convolution", f"C = {c}, {groups} groups", f"operator: Grouped, options: {{groups: {groups}}}"
            )
            for groups in (c // 2, c // 8)
        ),
        operator("depthwise separable", f"C = {c}", "operator: Separable"),
        *(
            operator("low rank", f"C = {c}, rank {rank}", f"operator: LowRank, options: {{rank: {rank}}}")
            for rank in (1, 4)
        ),
        *(other("narrow", f"C = {w}", "null", _widths(w, w // 2)) for w in (c // 16, c // 8, c // 4)),
        other(DENSE, f"C = {c}", "null"),
    )


def table_4_methods(budget: Budget) -> tuple[Method, ...]:
    """The two of Table 4: dense and converted, at C channels."""
    name = f"C = {budget.channels}"
    return tuple(m for m in methods(budget) if m.family in (DENSE, DEEP_PRISM) and m.name == name)


def _widths(channels: int, groups: int = 32) -> tuple[str, ...]:
    return (
        f"model.arguments.block_out_channels=[{channels}, {channels}, {channels}]",
        f"model.arguments.norm_num_groups={groups}",
    )
