"""Model references: what they name, and what is said when they name nothing."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from prismify.checkpoint.imports import neighbours
from prismify.checkpoint.references import Reference, build_empty, parse_reference, shapes_only
from prismify.checkpoint.structure import rebuild_from
from prismify.errors import SourceError

MAKE = """
from torch import nn

def make(width=4):
    return nn.Linear(width, 3)

class Nets:
    make = staticmethod(make)
"""


def build(text: str, **arguments: Any) -> nn.Module:
    return parse_reference(text, arguments).build()


@pytest.mark.parametrize(
    ("text", "prefix", "target"),
    [
        ("diffusers:UNet2DModel", "diffusers", "UNet2DModel"),
        ("a.b:make", "a.b", "make"),
        ("dir/f.py:make", "dir/f.py", "make"),
        ("/a:b/f.py:Nets.make", "/a:b/f.py", "Nets.make"),
    ],
)
def test_a_reference_is_read(text: str, prefix: str, target: str) -> None:
    assert parse_reference(text) == Reference(prefix, target)
    assert str(parse_reference(text)) == text


@pytest.mark.parametrize("text", ["", ":", "a:", ":b", "resnet18"])
def test_what_is_no_reference_is_said_to_be_none(text: str) -> None:
    with pytest.raises(SourceError, match="neither a file nor a model reference"):
        parse_reference(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("diffusers:AutoencoderKLL", "diffusers has no model 'AutoencoderKLL'; close are AutoencoderKL"),
        ("diffusers:DDPMScheduler", "diffusers has no model 'DDPMScheduler'"),
        ("diffusers:__version__", "diffusers has no model"),
        ("timm:resnet19", "timm has no model 'resnet19'; close are resnet"),
        ("torchvision:resnet19", "torchvision has no model 'resnet19'; close are resnet"),
        ("prismify:SinDM", "prismify has no model 'SinDM'; close are SinDDM"),
        ("no.such.package:make", "cannot import 'no.such.package'"),
        ("numpy:ones", "failed: TypeError"),
        ("numpy:nothing", "has no factory 'nothing'; it has"),
        ("torch:zeros", "failed: TypeError"),
        ("torch:get_num_threads", "returned a int, not an nn.Module"),
        ("os:getcwd", "os is a module of Python's own"),
        ("no_such.py:make", "no_such.py: no such file"),
        (".x:make", "cannot import '.x'"),
    ],
)
def test_a_reference_to_nothing_says_what_there_is(text: str, message: str) -> None:
    with pytest.raises(SourceError) as caught:
        build(text)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_libraries_build_with_arguments() -> None:
    assert build("timm:test_resnet", num_classes=7).num_classes == 7
    assert build("torchvision:squeezenet1_1", num_classes=5).classifier[1].out_channels == 5
    vae = build("diffusers:AutoencoderTiny", encoder_block_out_channels=[8, 8], decoder_block_out_channels=[8, 8],
                num_encoder_blocks=[1, 1], num_decoder_blocks=[1, 1])  # fmt: skip
    assert vae.config.encoder_block_out_channels == [8, 8]
    with pytest.raises(SourceError, match="timm:test_resnet failed: TypeError"):
        build("timm:test_resnet", no_such_argument=1)


def test_nothing_is_downloaded_that_was_not_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_network(*_: Any, **__: Any) -> None:
        raise AssertionError("downloads")

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", no_network)
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", no_network)
    assert build("torchvision:lraspp_mobilenet_v3_large")


def test_a_model_with_a_librarys_own_weights_is_not_rebuilt_by_name() -> None:
    assert rebuild_from(Reference("torchvision", "googlenet", {"weights": "DEFAULT"})) is None
    assert rebuild_from(Reference("timm", "resnet18", {"pretrained": True})) is None
    assert rebuild_from(Reference("timm", "resnet18", {"pretrained": False, "num_classes": 3})) == {
        "kind": "reference",
        "reference": "timm:resnet18",
        "arguments": {"num_classes": 3},
    }
    mine = rebuild_from(Reference("f.py", "make", {"pretrained": True, "weights": "w.pt"}))
    assert mine is not None
    assert mine["arguments"] == {"pretrained": False, "weights": "w.pt"}


def test_a_file_is_built_by_function_class_or_attribute(tmp_path: Path) -> None:
    (tmp_path / "nets.py").write_text(MAKE)
    for name in ("make", "Nets.make"):
        assert build(f"{tmp_path / 'nets.py'}:{name}", width=6).in_features == 6
    with pytest.raises(SourceError, match="has no factory 'made'; it has Nets, make"):
        build(f"{tmp_path / 'nets.py'}:made")


def test_a_package_of_the_current_folder_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here_only").mkdir()
    (tmp_path / "here_only" / "nets.py").write_text(MAKE)
    monkeypatch.chdir(tmp_path)
    path = list(sys.path)
    assert build("here_only.nets:make").in_features == 4
    assert sys.path == path


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("raise SystemExit(3)", "cannot be imported: SystemExit: 3"),
        ("import sys\nsys.exit('usage: train.py')", "cannot be imported: SystemExit: usage: train.py"),
        ("def make(:", "SyntaxError|is not Python"),
        ("import no_such_module", "ModuleNotFoundError"),
        ("def make():\n    raise SystemExit(2)", "failed: SystemExit: 2"),
        ("def make():\n    raise ValueError('two\\n lines')", "failed: ValueError: two lines"),
        ("make = 3", "has no factory 'make'"),
    ],
)
def test_a_file_that_fails_is_one_line(tmp_path: Path, code: str, message: str) -> None:
    (tmp_path / "bad.py").write_text(code)
    with pytest.raises(SourceError, match=message) as caught:
        build(f"{tmp_path / 'bad.py'}:make")
    assert "\n" not in str(caught.value)


def test_neighbours_are_found_through_each_other(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text("import torch\nfrom one import x\ndef make():\n    import lazy.part\n")
    (tmp_path / "one.py").write_text("import two, os\nimport net\n")
    (tmp_path / "two.py").write_text("x = 1")
    (tmp_path / "unused.py").touch()
    (tmp_path / "lazy").mkdir()
    (tmp_path / "lazy" / "__init__.py").touch()
    (tmp_path / "lazy" / "part.py").write_text("import three")
    (tmp_path / "three.py").touch()
    assert {p.name for p in neighbours(tmp_path / "net.py")} == {"one.py", "two.py", "lazy", "three.py"}


def test_two_folders_neighbours_of_one_name_are_told_apart(tmp_path: Path) -> None:
    for width in (5, 6):
        folder = tmp_path / str(width)
        folder.mkdir()
        (folder / "widths.py").write_text(f"WIDTH = {width}\n")
        (folder / "net.py").write_text(
            "from torch import nn\nfrom widths import WIDTH\n"
            "def make():\n    import widths\n    return nn.Linear(WIDTH, widths.WIDTH)\n"
        )
    for width in (5, 6, 5):
        made = build(f"{tmp_path / str(width) / 'net.py'}:make")
        assert (made.in_features, made.out_features) == (width, width)
    assert not list(tmp_path.rglob("__pycache__"))


class NeedsValues(nn.Module):
    """Asks for values while it is built."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.linear = nn.Linear(2, 3)
        if kind == "item":
            self.scale = float(self.linear.weight.abs().mean())
        elif kind == "buffer":
            self.register_buffer("copy", self.linear.weight.detach().clone(), persistent=False)
        elif kind == "attribute":
            self.copies = [self.linear.weight.detach() * 2]


@pytest.mark.parametrize("kind", ["item", "buffer", "attribute"])
def test_a_model_that_needs_values_is_built_with_them(kind: str) -> None:
    assert not build_empty(lambda: NeedsValues(kind)).linear.weight.is_meta
    assert build_empty(lambda: NeedsValues("nothing")).linear.weight.is_meta
    assert shapes_only(lambda: NeedsValues("buffer")).linear.weight.is_meta
    assert not shapes_only(lambda: NeedsValues("item")).linear.weight.is_meta


def test_building_empty_keeps_ties_and_buffers_and_cleans_up() -> None:
    def make() -> nn.Module:
        model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3), nn.BatchNorm1d(3))
        model[0].weight = model[1].weight = nn.Parameter(torch.ones(3, 3), requires_grad=False)
        return model

    model = build_empty(make)
    assert model[0].weight is model[1].weight
    assert model[0].weight.is_meta
    assert not model[0].weight.requires_grad
    assert not model[2].running_mean.is_meta
    assert not nn.Linear(2, 2).weight.is_meta
    with pytest.raises(ValueError, match="made wrong"):
        build_empty(wrong)
    assert not nn.Linear(2, 2).weight.is_meta


def wrong() -> nn.Module:
    raise ValueError("made wrong")
