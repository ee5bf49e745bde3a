"""What the paper counts, counted: Table 3, and the ratios of Secs. 4.2 and 4.3. Nothing is allocated."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from ..checkpoint import open_source
from ..facts import parameter_count
from ..fresh import architecture
from ..networks import SinDDM
from ..plan import Plan, Policy
from ..scanning import scan
from .table import Table, agrees

#: Table 3 as it is printed: width -> before, after, ratio.
PRINTED = {
    128: ("6.36M", "29.5K", 216),
    256: ("25.3M", "57.8K", 438),
    512: ("101M", "114K", 886),
    1024: ("405M", "227K", 1784),
}


def table_3() -> Table:
    """The autoencoder of latent diffusion at constant width, dense and converted."""
    rows = []
    for width, (before, after, ratio) in PRINTED.items():
        plan = scan(_on_meta("ldm-vae", width))
        projections = sum(row.attention is not None for row in plan.replaced)
        dense, ours = plan.parameters.before, plan.parameters.after
        # The paper's sum is one of weights where projections are concerned: ours keep their biases.
        counted = ours - projections
        both = agrees(dense, before) and agrees(counted, after) and agrees(ours, after)
        rows.append((width, dense, before, counted, ours, after, round(dense / ours), ratio, both))
    notes = (
        "Converted, the paper counts 42 convolutions of 28 numbers, 8 projections of 3, and 221·C + 63 of norms and of "
        "input and output layers. Projections that had a bias keep one here, 8 numbers more in all. Both are what is "
        "printed, to one unit of its last digit; of the ratios nobody says what they were taken from.",
    )
    columns = (
        "C", "dense", "paper", "converted", "with biases of projections", "paper's", "ratio", "paper's ratio", "agrees",
    )  # fmt: skip
    title = "Table 3: parameters of the autoencoder, dense and converted (policy `paper`)"
    return Table("table3", title, columns, tuple(rows), notes)


def sinddm() -> Table:
    """SinDDM's network in several readings of Sec. 4.2, which prints 93."""
    with torch.device("meta"):
        plain, widened = SinDDM(), SinDDM(widen_first=True)
    dense, time = parameter_count(plain), _timed(plain)
    shortcuts = Policy(name="volumes", exclude=("*.shortcut",))
    counted = [
        ("`paper`: the five of eight 3×3 that are C→C", scan(plain), False),
        ("`volumes`: seven of them; 3→80 has no common depth", scan(plain, policy=shortcuts), False),
        ("all eight, the width changed in front of each block", scan(widened, policy=shortcuts), False),
        ("the 1×1 shortcuts as well", scan(widened, policy="volumes"), False),
        ("the same, layers that time and scale pass not counted", scan(widened, policy="volumes"), True),
    ]
    rows = []
    for what, plan, without in counted:
        before, after = dense - without * time, plan.parameters.after - without * time
        rows.append((what, before, after, round(before / after, 1)))
    note = "The paper prints 93 and does not say what was counted; the last row is the one that comes near it."
    title = "SinDDM (Sec. 4.2): parameters, dense and converted"
    return Table("sinddm", title, ("replaced", "dense", "converted", "ratio"), tuple(rows), (note,))


def ldm(width: int = 256) -> Table:
    """The UNet of latent diffusion at constant width (Sec. 4.3), which prints 37.9M and about 500 times."""
    model = _on_meta("ldm-unet", width)
    time = _timed(model)
    rows = []
    for name in ("paper", "volumes"):
        plan = scan(model, policy=name)
        dense, after = plan.parameters.before, plan.parameters.after
        layers = _of_layers(plan)
        rows += [
            (f"`{name}`", "all parameters", dense, after, round(dense / after, 1)),
            (f"`{name}`", "without time layers", dense - time, after - time, round((dense - time) / (after - time), 1)),
            (f"`{name}`", "convolutions and attention alone", *layers, round(layers[0] / layers[1], 1)),
        ]
    note = (
        "The paper counts 37.9M without time layers, and about 500 times fewer converted; it does not print the "
        "levels. That ratio is out of reach while layers behind skip connections, whose width changes, stay dense."
    )
    title = f"The UNet of latent diffusion at C = {width} (Sec. 4.3): parameters, dense and converted"
    return Table("ldm", title, ("policy", "counted", "dense", "converted", "ratio"), tuple(rows), (note,))


def _on_meta(name: str, width: int) -> nn.Module:
    one = architecture(name)
    source: Any = open_source(one.reference, arguments=one.arguments(width, one.channels, one.size, 0))
    model: nn.Module = source.build(empty=True)
    return model


def _timed(model: nn.Module) -> int:
    """Numbers of the layers that time passes."""
    return sum(p.numel() for name, p in model.named_parameters() if "time" in name)


def _of_layers(plan: Plan) -> tuple[int, int]:
    """(dense, converted) numbers of the layers that do not stem from the time."""
    rows = [row for row in plan.layers if "time" not in row.name]
    return sum(row.parameters_before for row in rows), sum(row.parameters_after for row in rows)
