"""What Figure 1 compares: ways to make the autoencoder small, as changes of the recipe `cifar10-fast`. Plain data."""

from __future__ import annotations

from dataclasses import dataclass

#: Learning rate of layers whose weights are dense; the recipe's own is that of 27 numbers a layer.
_DENSE = "train.learning_rate=1e-3"


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


def _widths(channels: int, groups: int = 32) -> tuple[str, ...]:
    return (
        f"model.arguments.block_out_channels=[{channels}, {channels}, {channels}]",
        f"model.arguments.norm_num_groups={groups}",
    )


def _operator(text: str) -> tuple[str, ...]:
    return (f"model.convert={{name: paper, {text}}}", _DENSE, "model.zero=[]", "train.fuse=false")


METHODS = (
    *(Method("DeepPrism", f"C = {c}", _widths(c)) for c in (32, 64, 128)),
    *(
        Method(
            "DeepPrism, volumes",
            f"C = 64, volumes of {depth}",
            (f"model.convert={{name: volumes, depth: {depth}, min_volume: 8}}",),
        )
        for depth in (32, 16, 8)
    ),
    *(
        Method(
            "group convolution",
            f"C = 64, {groups} groups",
            _operator(f"operator: Grouped, options: {{groups: {groups}}}"),
        )
        for groups in (32, 8)
    ),
    Method("depthwise separable", "C = 64", _operator("operator: Separable")),
    *(
        Method("low rank", f"C = 64, rank {rank}", _operator(f"operator: LowRank, options: {{rank: {rank}}}"))
        for rank in (1, 4)
    ),
    *(
        Method("narrow", f"C = {c}", (*_widths(c, c // 2), "model.convert=null", "train.fuse=false", _DENSE))
        for c in (4, 8, 16)
    ),
    Method("dense", "C = 64", ("model.convert=null", "train.fuse=false", _DENSE)),
)
