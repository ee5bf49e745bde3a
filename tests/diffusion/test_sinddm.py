"""SinDDM's network, and what conversion leaves of it: the counts of Sec. 4.2, with what is counted."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import prismify
from prismify import Policy, scan
from prismify.facts import parameter_count
from prismify.networks import SinDDM

DENSE = 1_106_772


def test_the_dense_network_is_the_papers() -> None:
    """Four blocks 3 -> 80 -> 160 -> 160 -> 80: eight 3x3, four depthwise 5x5, three 1x1 shortcuts."""
    model = SinDDM()
    assert parameter_count(model) == DENSE
    kernels = [m.kernel_size[0] for m in model.modules() if isinstance(m, nn.Conv2d)]
    assert (kernels.count(3), kernels.count(5), kernels.count(1)) == (8, 4, 3 + 1)
    assert parameter_count(SinDDM(widen_first=True)) > DENSE


def test_policy_paper() -> None:
    """Five of the eight 3x3 are C->C; of the three whose width changes, volumes take two: 3 -> 80 has none."""
    model = SinDDM()
    paper, volumes = scan(model), scan(model, policy=Policy("volumes", exclude=("*.shortcut",)))
    assert round(DENSE / paper.parameters.after, 1) == 3.7
    assert [row.name for row in volumes.layers if row.kernel_size == (3, 3) and row.decision == "keep"] == [
        "blocks.0.conv1"
    ]
    assert round(DENSE / volumes.parameters.after, 1) == 16.0


def test_all_eight() -> None:
    """As the paper lays it out, Conv - DeepPrism - GELU - DeepPrism, the width changes in front: all eight are C->C."""
    model = SinDDM(widen_first=True)
    for plan in (scan(model), scan(model, policy=Policy("volumes", exclude=("*.shortcut",)))):
        replaced = [row for row in plan.layers if row.decision == "replace"]
        assert len(replaced) == 8
        assert all(row.operator is not None and row.operator.volumes == (1, 1) for row in replaced)
        assert plan.parameters.after == 67_076
        assert round(DENSE / plan.parameters.after, 1) == 16.5


def test_shortcuts_too_and_no_time_layers() -> None:
    """95.5 times: 1,076,801 of the dense network against 11,280, both without the layers that time passes.

    The paper prints 93. The shortcut of the first block reads the picture and stays; counted with the time layers, the
    ratio is 26.8.
    """
    model = SinDDM(widen_first=True)
    plan = scan(model, policy="volumes")
    replaced = [row.name for row in plan.layers if row.decision == "replace"]
    assert [name for name in replaced if "shortcut" in name] == ["blocks.1.shortcut", "blocks.3.shortcut"]
    assert len(replaced) == 8 + 2
    time = sum(p.numel() for name, p in SinDDM().named_parameters() if "time" in name)
    assert time == sum(p.numel() for name, p in model.named_parameters() if "time" in name) == 29_971
    assert (DENSE - time, plan.parameters.after - time) == (1_076_801, 11_280)
    assert round((DENSE - time) / (plan.parameters.after - time), 1) == 95.5
    assert round(DENSE / plan.parameters.after, 1) == 26.8
    converted = prismify.convert(model, plan)
    assert parameter_count(converted) == plan.parameters.after


@pytest.mark.parametrize("widen_first", [False, True])
def test_any_size_and_every_scale(widen_first: bool) -> None:
    model = prismify.convert(SinDDM(32, widen_first=widen_first), policy=Policy("volumes", min_volume=8)).eval()
    x, time = torch.randn(2, 3, 7, 19), torch.tensor([3, 90])
    coarse = model(x, time, torch.zeros(2, dtype=torch.long))
    assert coarse.shape == x.shape
    assert torch.equal(model(x, time), coarse)
    assert not torch.equal(model(x, time, torch.ones(2)), coarse)
    assert not torch.equal(model(x, time.flip(0)), coarse)


def test_it_sees_33_pixels() -> None:
    """Four blocks of 5x5, 3x3, 3x3: 4 * (4 + 2 + 2) + 1. SinDDM's code chooses its scales for 35."""
    model = SinDDM(16).eval()
    x = torch.zeros(1, 3, 65, 65, requires_grad=True)
    model(x, torch.zeros(1))[0, :, 32, 32].sum().backward()
    assert x.grad is not None
    touched = x.grad.abs().sum((0, 1)).nonzero()
    low, high = touched.min(0).values.tolist(), touched.max(0).values.tolist()
    assert (low, high) == ([16, 16], [48, 48])


@pytest.mark.parametrize("arguments", [{"width": 15}, {"width": 0}, {"time_width": 2}, {"time_width": 33}])
def test_widths_that_do_not_fit(arguments: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="must be even"):
        SinDDM(**arguments)
