"""The zoo: every architecture's roles and conversion, and for some the whole walk. `python -m tests.zoo` walks all."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.zoo.reload import reload
from tests.zoo.row import Row
from tests.zoo.table import GROUPS, ROWS
from tests.zoo.walk import STEPS, Result, slug, walk

#: One of each kind goes all the way.
WHOLE = (
    "AutoencoderTiny",
    "AutoencoderDC (Sana)",
    "UNet2DModel (DDPM)",
    "DiT",
    "Flux",
    "Lumina2",
    "StyleGAN2",
    "BigGAN",
    "CycleGAN",
    "DnCNN",
    "Glow",
    "RealNVP",
    "SinDDM",
    "guided diffusion UNet, heads outside",
    "ResNet (timm)",
    "ViT (timm)",
)
#: Conversion itself compares the shapes and sees that gradients arrive.
_UP_TO_CONVERT = STEPS[: STEPS.index("forward")]


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """The libraries' own warnings are not ours to judge."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def assert_as_expected(row: Row, result: Result, steps: tuple[str, ...]) -> None:
    """Every step holds, or fails as the table says it does."""
    for step in steps:
        if step in row.red:
            assert result.steps[step] != "ok", f"{row.name}: {step} holds now: take it out of `red`"
            return
        assert result.steps.get(step) == "ok", f"{row.name}: {step}: {result.steps.get(step)}"


def test_the_table_is_large_and_its_names_are_its_own() -> None:
    names = [slug(row) for row in ROWS]
    assert len(set(names)) == len(names) >= 75
    assert sum(row.roles is not None for row in ROWS) >= 12
    assert set(WHOLE) <= {row.name for row in ROWS}
    for row in ROWS:
        assert set(row.red) <= set(STEPS)
        assert row.small is not None or row.full is not None


@pytest.mark.slow
def test_one_of_each_kind_goes_all_the_way(tmp_path: Path) -> None:
    rows = [row for row in ROWS if row.name in WHOLE]
    results = {row.name: walk(row, tmp_path) for row in rows}
    loaded = reload(tmp_path)
    for row in rows:
        results[row.name].steps["load"] = loaded.get(slug(row), "it was not saved")
        assert_as_expected(row, results[row.name], STEPS)


@pytest.mark.slow
@pytest.mark.parametrize("group", GROUPS)
def test_the_others_convert(group: str, tmp_path: Path) -> None:
    for row in GROUPS[group]:
        if row.small is not None and row.name not in WHOLE:
            assert_as_expected(row, walk(row, tmp_path, _UP_TO_CONVERT), _UP_TO_CONVERT)
