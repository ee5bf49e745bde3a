"""When inputs cannot be guessed, one line says what failed and what to give, and the terminal stays empty."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from prismify.errors import CaptureError
from prismify.graph import capture_all
from prismify.scanning import scan
from tests.graph.nets import C, Chain


class Conditioned(Chain):
    """Calls optional what it cannot do without."""

    def __init__(self) -> None:
        super().__init__()
        self.project = nn.Linear(48, C)

    def _with(self, x: Tensor, context: Tensor) -> Tensor:
        return self.tail(self.body(self.head(x) + self.project(context).mean(1)[:, :, None, None]))


class NeedsContext(Conditioned):
    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        return self._with(x, context)


class NamesWhatItNeeds(Conditioned):
    def forward(self, x: Tensor, flavour: Tensor | None = None, other: int | None = None) -> Tensor:
        if flavour is None:
            raise ValueError("flavour is required\nfor this model")
        return self._with(x, flavour)


class AssertsWhatItNeeds(Conditioned):
    def forward(self, x: Tensor, class_ids: Any = None, pad_mask: Any = None, flavour: Any = None) -> Tensor:
        assert flavour is not None
        return self._with(x, flavour)


class ChecksValues(Chain):
    """Value-dependent, so that shapes alone do not run, and picky about the values."""

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        if int(lengths.max()) != 5:
            raise ValueError("lengths must be at most five " + "and " * 100)
        return super().forward(x)[:, :, : int(lengths.max())]


class NamesNothing(Chain):
    def forward(self, *inputs: Tensor) -> Tensor:
        return super().forward(inputs[1])


GIVE = "give the inputs yourself: --input x=1,3,32,32"
OPTIONAL = "; it may need what its signature calls optional: --input "


@pytest.mark.parametrize(
    ("net", "ending"),
    [
        (NeedsContext, f"{GIVE}{OPTIONAL}context=1,7,48"),
        (NamesWhatItNeeds, f"ValueError: flavour is required for this model; {GIVE}{OPTIONAL}flavour=1,7,48"),
        (
            AssertsWhatItNeeds,
            f"{GIVE}{OPTIONAL}class_ids=1:int --input pad_mask=1,7:ones --input flavour=1,7,48",
        ),
        (ChecksValues, f"and and ...; {GIVE} --input lengths=1,3,32,32"),
        (NamesNothing, "give the inputs yourself: forward names no argument, so in Python, as args=(...)"),
    ],
)
def test_the_line_names_what_is_missing(net, ending, capfd):
    (line,) = capture_all(net()).skipped
    assert line.endswith(ending)
    assert "\n" not in line
    assert line in scan(net()).notes
    assert capfd.readouterr() == ("", "")


def test_given_inputs_that_lack_an_optional_one_are_told_so():
    with pytest.raises(CaptureError) as caught:
        scan(NeedsContext(), (torch.randn(1, 3, 8, 8),))
    assert str(caught.value).endswith("; it may need what its signature calls optional: --input context=1,7,48")
    assert "give the inputs yourself" not in str(caught.value)
    with pytest.raises(CaptureError, match=r"channels[^;]*$"):  # nothing optional is to blame
        scan(NeedsContext(), (torch.randn(1, 4, 8, 8), torch.randn(1, 7, 48)))
