"""Exported programs that would run code, load libraries or fill memory when torch reads them."""

from __future__ import annotations

import io
import json
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.export import Dim

from prismify.checkpoint.formats import read_program
from prismify.checkpoint.formats.program_check import check_program
from prismify.errors import SourceError, UnsafePickleError

MODEL = "models/model.json"


@pytest.fixture
def program(tmp_path: Path) -> Path:
    layers = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).eval()
    shapes = ({0: Dim("n", max=9), 2: Dim.AUTO, 3: Dim.AUTO},)
    exported = torch.export.export(layers, (torch.randn(2, 3, 8, 8),), dynamic_shapes=shapes)
    torch.export.save(exported, tmp_path / "good.pt2")
    return tmp_path / "good.pt2"


def changed(path: Path, record: str, change: Callable[[bytes], bytes]) -> Path:
    """A copy of an archive with one record changed, or added where it is new."""
    bad = path.with_name("bad.pt2")
    with zipfile.ZipFile(path) as archive, zipfile.ZipFile(bad, "w") as out:
        root = archive.namelist()[0].partition("/")[0]
        for name in archive.namelist():
            data = archive.read(name)
            out.writestr(name, change(data) if name == f"{root}/{record}" else data)
        if f"{root}/{record}" not in archive.namelist():
            out.writestr(f"{root}/{record}", change(b""))
    return bad


def with_model(path: Path, change: Callable[[Any], None]) -> Path:
    def edit(content: bytes) -> bytes:
        model = json.loads(content)
        change(model)
        return json.dumps(model).encode()

    return changed(path, MODEL, edit)


def first(model: Any, key: str) -> Any:
    """The first object in nested JSON that has a key."""
    if isinstance(model, dict):
        if key in model:
            return model
        model = list(model.values())
    if isinstance(model, list):
        for inner in model:
            if (found := first(inner, key)) is not None:
                return found
    return None


def conv(model: Any) -> Any:
    return next(n for n in model["graph_module"]["graph"]["nodes"] if "conv2d" in n["target"])


def attacks(marker: Path) -> dict[str, Callable[[Any], Any]]:
    call = f"__import__('os').system('touch {marker}')"
    spec = '[1, {"type": "collections.defaultdict", "context": "%s", "children_spec": []}]'
    context = json.dumps({"default_factory_module": "antigravity", "default_factory_name": "fly", "dict_context": []})
    member = json.dumps({"__enum__": True, "fqn": "this:x", "name": "y"})
    enum = json.dumps([1, {"type": "builtins.dict", "context": member, "children_spec": []}])

    def set_in(find: Callable[[Any], Any], key: str, value: Any) -> Callable[[Any], Any]:
        return lambda model: find(model).__setitem__(key, value)

    def signature(model: Any) -> Any:
        return model["graph_module"]["module_call_graph"][0]["signature"]

    return {
        "size expression": set_in(lambda m: first(m, "expr_str"), "expr_str", call),
        "size that never ends": set_in(lambda m: first(m, "expr_str"), "expr_str", "9**9**9**9"),
        "power function": set_in(lambda m: first(m, "expr_str"), "expr_str", "Pow(Integer(9), Integer(999999999))"),
        "attribute of a number": set_in(lambda m: first(m, "expr_str"), "expr_str", "Integer(1).__class__"),
        "guard": set_in(lambda m: m, "guards_code", [f"{call} == 0"]),
        "guard by attribute": set_in(lambda m: m, "guards_code", ["torch.os.system('x') == 0"]),
        "os.system as operator": set_in(conv, "target", "torch.os.system"),
        "hub as operator": set_in(conv, "target", "torch.hub.load"),
        "operator that writes files": set_in(conv, "target", "torch.ops.aten.save.default"),
        "eval as operator": set_in(conv, "target", "_operator.methodcaller"),
        "foreign operator": set_in(conv, "target", "torch.ops.mine.run.default"),
        "argument's name": set_in(lambda m: m["graph_module"]["graph"]["inputs"][-1]["as_tensor"], "name", f"x={call}"),
        "parameter's name": set_in(lambda m: first(m, "parameter_name"), "parameter_name", 'a"), ' + call + ', ("'),
        "name that is a keyword": set_in(lambda m: first(m, "as_tensor")["as_tensor"], "name", "import"),
        "calling convention": set_in(signature, "in_spec", spec % context.replace('"', '\\"')),
        "enumeration": set_in(signature, "out_spec", enum),
        "argument names": set_in(signature, "forward_arg_names", [f"x={call}"]),
        "metadata": set_in(conv, "metadata", {"code": call}),
    }


ATTACKS = sorted(attacks(Path("marker")))


@pytest.mark.parametrize("attack", ATTACKS)
def test_nothing_in_the_graph_runs(program: Path, attack: str, tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    bad = with_model(program, attacks(marker)[attack])
    with pytest.raises(SourceError) as caught:
        read_program(bad)
    assert not marker.exists()
    assert "\n" not in str(caught.value)
    assert isinstance(caught.value, UnsafePickleError), str(caught.value)
    assert "nothing was run" in str(caught.value)


class Payload:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.marker}",)


def saved(value: Any) -> bytes:
    content = io.BytesIO()
    torch.save(value, content)
    return content.getvalue()


def test_no_pickle_runs(program: Path, tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    bad = changed(program, "data/sample_inputs/model.pt", lambda _: saved(((Payload(marker),), {})))
    with pytest.raises(UnsafePickleError, match=r"a pickle \(its example inputs\).*--trust-pickle"):
        read_program(bad)
    config = "data/weights/model_weights_config.json"
    bad = changed(program, config, lambda c: c.replace(b'"use_pickle": false', b'"use_pickle": true', 1))
    bad = changed(bad.rename(tmp_path / "p.pt2"), "data/weights/weight_0", lambda _: saved(Payload(marker)))
    with pytest.raises(UnsafePickleError, match=r"a pickle \(0\.weight\)"):
        read_program(bad)
    for record in ("data/constants/opaque_obj_0", "data/constants/custom_obj_0", "data/weights/model.pt", "code/x.py"):
        with pytest.raises(UnsafePickleError, match="holds the record"):
            read_program(changed(program, record, lambda _: pickle.dumps(Payload(marker))))
    assert not marker.exists()
    bad = changed(program, "data/sample_inputs/model.pt", lambda _: saved(((Payload(marker),), {})))
    read_program(bad, trust=True)
    assert marker.exists()  # the payload is one


def test_compiled_code_is_refused(program: Path) -> None:
    with pytest.raises(UnsafePickleError, match=r"holds compiled code .* without compiling it"):
        read_program(changed(program, "data/aotinductor/model/x.so", lambda _: b"\x7fELF"))


def test_nothing_is_larger_than_its_file(program: Path) -> None:
    config = "data/weights/model_weights_config.json"

    def huge(content: bytes) -> bytes:
        value = json.loads(content)
        value["config"]["0.weight"]["tensor_meta"]["sizes"] = [{"as_int": 1 << 40}] * 4
        return json.dumps(value).encode()

    bad = changed(program, config, huge)
    with pytest.raises(SourceError):
        read_program(bad)
    with pytest.raises(SourceError, match=r"0\.weight has no values"):
        read_program(changed(bad.rename(bad.with_name("h.pt2")), "data/weights/weight_0", lambda _: b""))


def test_what_is_no_program_says_what_it_is(program: Path, tmp_path: Path) -> None:
    check_program(program)
    with pytest.raises(SourceError, match="no such file"):
        read_program(tmp_path / "none.pt2")
    (tmp_path / "text.pt2").write_text("x")
    with pytest.raises(SourceError, match="not an archive"):
        read_program(tmp_path / "text.pt2")
    torch.save({"a": torch.ones(1)}, tmp_path / "state.pt2")
    with pytest.raises(SourceError):
        read_program(tmp_path / "state.pt2")
    (tmp_path / "script.pt2").write_bytes(changed(program, "constants.pkl", lambda _: b"x").read_bytes())
    with pytest.raises(SourceError, match=r"TorchScript file, which cannot be converted: export the Python model"):
        read_program(tmp_path / "script.pt2")
