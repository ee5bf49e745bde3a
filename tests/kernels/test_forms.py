"""The forms in which the operator leaves for other runtimes: each is the definition."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from prismify.kernels import PADDING_MODES, Topology, deep_prism, reference
from prismify.kernels.problem import Geometry
from prismify.kernels.torch import forms
from prismify.kernels.torch.forms import FORMS, Form, banded, counted, written_as
from tests.tolerances import equivalent, rounded

sizes = st.tuples(st.integers(1, 3), st.integers(1, 2), st.sampled_from([3, 8, 9, 17, 30, 34]))


@settings(deadline=None)
@given(
    sizes,
    st.sampled_from([1, 3, 5]),
    st.sampled_from(["zero", "replicate", "circular"]),
    st.sampled_from(sorted(PADDING_MODES)),
    st.integers(1, 2),
    st.integers(1, 2),
    st.sampled_from(["none", "volume", "channel"]),
    st.sampled_from(FORMS),
)
def test_a_form_is_the_definition(
    size: tuple[int, int, int],
    k_c: int,
    topology: Topology,
    mode: str,
    stride: int,
    dilation: int,
    bias: str,
    form: Form,
) -> None:
    p, q, depth = size
    u, weight = torch.randn(2, p * depth, 7, 6).double(), torch.randn(q, p, k_c, 3, 3).double()
    numbers = {"none": None, "volume": torch.randn(q).double(), "channel": torch.randn(q * depth).double()}[bias]
    geometry = Geometry((stride, stride), (1, 1), (dilation, dilation), mode, topology)  # type: ignore[arg-type]
    words = {name: getattr(geometry, name) for name in ("stride", "padding", "dilation", "padding_mode", "topology")}
    ours = forms.deep_prism(u, weight, numbers, geometry, form)
    equivalent(ours, reference.deep_prism(u, weight, numbers, **words))


def test_a_band_has_the_weights_along_its_diagonals() -> None:
    weight = torch.arange(1.0, 4.0).reshape(1, 1, 3, 1, 1)
    assert banded(weight, 3)[0, :, 0, :, 0, 0].tolist() == [[1, 2, 3, 0, 0], [0, 1, 2, 3, 0], [0, 0, 1, 2, 3]]


@pytest.mark.parametrize(
    ("shape", "taken"),
    [((1, 64, 8, 8), "depthwise"), ((8, 64, 64, 64), "blocks"), ((1, 12, 8, 8), "dense")],
    ids=["small", "large", "few channels"],
)
def test_the_form_is_chosen_by_shape_and_counted(shape: tuple[int, ...], taken: str) -> None:
    class Layer(torch.nn.Module):
        def forward(self, u: torch.Tensor) -> torch.Tensor:
            return deep_prism(u, torch.ones(3, 3, 3), padding=(1, 1))

    with counted() as count, written_as("auto"):
        program = torch.export.export(Layer(), (torch.zeros(shape),), strict=False)
    assert dict(count) == {taken: 1}
    u = torch.randn(shape)
    rounded(program.module()(u), reference.deep_prism(u.double(), torch.ones(3, 3, 3).double(), padding=(1, 1)))


def test_nothing_is_written_otherwise_outside_of_an_export() -> None:
    assert forms.wanted_form() is None
    with written_as("blocks"):
        assert forms.wanted_form() == "blocks"
    assert forms.wanted_form() is None
