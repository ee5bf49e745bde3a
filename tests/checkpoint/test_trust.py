"""What a file names is followed only as far as the person said."""

from __future__ import annotations

from pathlib import Path

import pytest

from prismify.checkpoint import Trust, open_source
from prismify.checkpoint.formats.pickles import _resolve
from prismify.checkpoint.references import parse_reference
from prismify.errors import PrismifyError, SourceError


@pytest.mark.parametrize("name", ["checkpoint_path", "pretrained_cfg", "cache_dir"])
def test_an_argument_that_reaches_for_other_files_takes_trust(name: str) -> None:
    given = {"model": None, "arguments": {name: "elsewhere"}, "named_by": "the recipe"}
    with pytest.raises(SourceError, match=f"the recipe gives timm:resnet18 the argument '{name}'.* add --trust-code"):
        open_source("timm:resnet18", **given, named=["timm:resnet18"])
    assert open_source("timm:resnet18", **given, trust_code=True)
    assert open_source("timm:resnet18", arguments={"drop_rate": 0.1}, named_by="the recipe")


def test_arguments_of_a_file_are_a_table() -> None:
    with pytest.raises(SourceError, match="a manifest: the arguments of a model are names with values"):
        open_source("timm:resnet18", arguments=["x"], named_by="a manifest")  # type: ignore[arg-type]


def test_a_trust_is_nothing_by_default() -> None:
    assert Trust() == Trust(code=False, allow=(), pickle=False, named=frozenset())


def test_a_library_that_is_not_installed_is_not_looked_for_where_one_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stranger's folder may hold one of that name."""
    (tmp_path / "timm").mkdir()
    (tmp_path / "timm" / "absent.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w').close()")
    (tmp_path / "timm" / "__init__.py").write_text("")
    monkeypatch.chdir(tmp_path)
    import sys

    with monkeypatch.context() as patch:
        for name in [n for n in sys.modules if n.partition(".")[0] == "timm"]:
            patch.delitem(sys.modules, name)
        patch.setattr(sys, "path", [])  # nothing is installed
        assert _resolve("timm.absent.Net", ()) is None
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("code", [False, True])
@pytest.mark.parametrize("reference", ["os:system", "subprocess:Popen", "builtins:exec", "importlib.util:find_spec"])
def test_pythons_own_library_is_refused_by_name_whatever_is_trusted(reference: str, code: bool) -> None:
    with pytest.raises(SourceError, match=r"names no model: .* is a module of Python's own"):
        Trust(code=code).check(parse_reference(reference), "recipe.yaml")


@pytest.mark.parametrize("reference", ["torchvision.models:resnet18", "torch.hub:load", "torch.fx:GraphModule"])
def test_a_library_by_another_name_than_its_own_takes_trust(reference: str) -> None:
    with pytest.raises(SourceError, match="add --trust-code"):
        Trust().check(parse_reference(reference), "recipe.yaml")
    Trust(code=True).check(parse_reference(reference), "recipe.yaml")


@pytest.mark.parametrize(
    "reference", ["torchvision:datasets.utils.download_url", "timm:load_checkpoint", "diffusers:utils.load_image"]
)
def test_a_librarys_other_functions_are_no_models(reference: str) -> None:
    with pytest.raises(PrismifyError, match="has no model"):
        parse_reference(reference).build(empty=True)
