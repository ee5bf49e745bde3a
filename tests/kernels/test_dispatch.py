"""Which engine serves what, what they promise alike, and life without the compilers."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import torch

from prismify.errors import PrismifyError, ShapeError
from prismify.kernels import deep_prism, engines_report, explain, prism, use_engine
from prismify.kernels.cpu import support as cpu
from prismify.kernels.cpu import threads as cpu_threads
from prismify.kernels.problem import Geometry, make_problem
from tests.kernels.cases import Case, definition
from tests.tolerances import exact, rounded


def problem(u=(1, 16, 8, 8), weight=(3, 3, 3), **geometry):
    return make_problem(u, weight, 0, Geometry(**geometry))


def test_report_is_plain_data():
    rows = json.loads(json.dumps(engines_report()))
    assert [row["engine"] for row in rows] == ["numba", "triton", "torch", "reference"]
    assert all(row["available"] == (row["reason"] is None) for row in rows)
    assert rows[0]["details"]["numba"]
    assert rows[1]["available"] or rows[1]["reason"]


def test_every_refusal_has_a_reason():
    assert explain(problem(), "cpu", torch.float32) == {"engine": "numba", "passed_over": {}}
    refused = [
        (problem((1, 64, 4, 4), (11, 3, 3)), torch.float32),
        (problem((1, 64, 4, 4), (32, 32, 1, 3, 3)), torch.float32),
        (problem((1, 64, 4, 4), (16, 16, 1, 3, 3)), torch.float32),
        (problem((1, 16, 600, 4), (3, 3, 3), dilation=(200, 1)), torch.float32),
        (problem(), torch.complex64),
    ]
    for p, dtype in refused:
        told = explain(p, "cpu", dtype)
        assert told["engine"] == "torch"
        assert told["passed_over"]["numba"]
    assert explain(problem(), "mps", torch.float32)["engine"] == "torch"


@pytest.mark.parametrize(
    "case",
    [
        Case(1, depth=12, kernel=(11, 3, 3)),
        Case(1, (8, 4), depth=1, kernel=(1, 3, 3), bias="channel"),
        Case(1, (2, 3), depth=3, bias="channel", geometry={"padding": (1, 1), "topology": "circular"}),
        Case(1, depth=40, size=(32, 32), kernel=(21, 3, 3)),
        Case(1, (4, 8), depth=5, size=(32, 32), kernel=(5, 3, 3), geometry={"padding": (1, 1), "stride": (2, 2)}),
        Case(1, (64, 64), depth=1, size=(32, 32), kernel=(1, 3, 3)),
    ],
    ids=str,
)
def test_what_no_kernel_serves_is_right_too(case):
    u, weight, bias = case.inputs()
    output = deep_prism(u, weight, bias, **case.geometry)
    cotangent = torch.randn_like(output)
    gradients = torch.autograd.grad(output, (u, weight, bias), cotangent)
    for a, b in zip((output, *gradients), definition(case, u, weight, bias, cotangent), strict=True):
        rounded(a, b)


def test_use_engine():
    u, weight = torch.randn(1, 16, 8, 8), torch.randn(3, 3, 3)
    with use_engine("reference"):
        listing = torch.nn.functional.conv3d(u[:, None], weight[None, None], padding=1)[:, 0]
        exact(deep_prism(u, weight, padding=(1, 1)), listing)
    with pytest.raises(PrismifyError, match="none of numba"), use_engine("fortran"):
        pass
    with pytest.raises(PrismifyError, match="runs on cuda, not on cpu"), use_engine("triton"):
        deep_prism(u, weight, padding=(1, 1))


@pytest.mark.parametrize(
    ("u", "weight", "bias", "geometry"),
    [
        ((1, 6, 4, 4), (2, 3, 3), None, {}),
        ((1, 2, 4, 4), (5, 3, 3), None, {}),
        ((1, 7, 4, 4), (1, 2, 3, 3, 3), None, {}),
        ((1, 6, 4, 4), (3, 3, 3), 4, {}),
        ((1, 6, 4, 4), (3, 5, 3), None, {}),
        ((1, 6, 4, 4), (3, 3, 3), None, {"padding_mode": "reflect", "padding": (4, 1)}),
        ((1, 6, 4, 4), (3, 3, 3), None, {"padding_mode": "mirror"}),
        ((1, 6, 4, 4), (3, 3, 3), None, {"topology": "sphere"}),
        ((1, 6, 4, 4), (3, 3), None, {}),
        ((6, 4, 4), (3, 3, 3), None, {}),
    ],
)
def test_wrong_shapes_are_named(u, weight, bias, geometry):
    numbers = None if bias is None else torch.zeros(bias)
    with pytest.raises(ShapeError):
        deep_prism(torch.zeros(u), torch.zeros(weight), numbers, **geometry)
    with pytest.raises(ShapeError):
        deep_prism(torch.zeros(u, device="meta"), torch.zeros(weight, device="meta"), numbers, **geometry)
    with pytest.raises(ShapeError):
        prism(torch.zeros(2, 5), torch.zeros(4))


def test_types_that_differ_are_torchs_own_error():
    with pytest.raises(RuntimeError, match=r"scalar type|same"):
        deep_prism(torch.zeros(1, 6, 4, 4), torch.zeros(3, 3, 3, dtype=torch.float64))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("bias", ["scalar", "channel"])
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_results_do_not_depend_on_threads(dtype, bias, layout):
    case = Case(3, depth=40, size=(33, 40), dtype=dtype, bias=bias, layout=layout)
    u, weight, numbers = case.inputs()
    cotangent = torch.randn(u.shape).to(dtype)
    results = []
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 3, 7):
            torch.set_num_threads(threads)
            output = deep_prism(u, weight, numbers, padding=(1, 1))
            results.append((output, *torch.autograd.grad(output, (u, weight, numbers), cotangent)))
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            exact(a, b)


def test_threads_of_its_own(monkeypatch):
    """Where torch's OpenMP threads cannot be reached."""
    u, weight = torch.randn(2, 40, 32, 32), torch.randn(3, 3, 3)
    wanted = deep_prism(u, weight, padding=(1, 1))
    monkeypatch.setattr(cpu_threads, "_openmp", lambda: None)
    assert "own" in cpu.describe()["threads"]
    exact(deep_prism(u, weight, padding=(1, 1)), wanted)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("place", [(0, 0, 0, 0), (1, 8, 6, 7), (0, 4, 3, 3)])
def test_nan_and_inf_travel(value, layout, place):
    """To the 27 outputs that see them, and no further; so do an output's to the input's gradient."""
    case = Case(dtype=torch.float32, layout=layout)
    u, weight, bias = (x.detach() for x in case.inputs())
    u[place] = value
    output = deep_prism(u, weight, bias, padding=(1, 1))
    with use_engine("reference"):
        wanted = deep_prism(u, weight, bias, padding=(1, 1))
    torch.testing.assert_close(output, wanted, equal_nan=True)
    v = torch.zeros_like(u).requires_grad_()
    (ours,) = torch.autograd.grad(deep_prism(v, weight, padding=(1, 1)), v, u)
    with use_engine("reference"):
        (theirs,) = torch.autograd.grad(deep_prism(v, weight, padding=(1, 1)), v, u)
    torch.testing.assert_close(ours, theirs, equal_nan=True)
    assert 0 < ours.isfinite().logical_not().sum() <= 27


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_narrow_types_round_to_nearest_even(dtype):
    values = torch.randn(8, 512) * 10.0 ** torch.randint(-6, 5, (8, 512))
    u = values.to(dtype).reshape(1, 8, 8, 64)
    weight = torch.zeros(3, 3, 3, dtype=dtype)
    weight[1, 1, 1] = 1.2345678
    exact(deep_prism(u, weight, padding=(1, 1)), (u.float() * weight[1, 1, 1].float()).to(dtype))


def run(code: str, *arguments: str, **env: str) -> str:
    command = [sys.executable, "-W", "error", "-c", code, *arguments]
    process = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **env})
    assert process.returncode == 0, process.stderr
    return process.stdout


def test_import_loads_no_compiler():
    run("import sys, prismify.kernels; assert not {'numba', 'triton', 'llvmlite'} & set(sys.modules)")


def test_without_numba():
    out = run(
        "import sys; sys.modules['numba'] = None; sys.meta_path.insert(0, type('No', (), {"
        "'find_spec': staticmethod(lambda name, *_: (_ for _ in ()).throw(ImportError(name)) "
        "if name == 'numba' else None)}))\n"
        "import importlib.util, torch\n"
        "real = importlib.util.find_spec\n"
        "importlib.util.find_spec = lambda name, *a: None if name == 'numba' else real(name, *a)\n"
        "from prismify.kernels import deep_prism, engines_report, reference\n"
        "u, w = torch.randn(2, 40, 32, 32, requires_grad=True), torch.randn(3, 3, 3, requires_grad=True)\n"
        "y = deep_prism(u, w, padding=(1, 1)); y.sum().backward()\n"
        "torch.testing.assert_close(y, reference.deep_prism(u, w, padding=(1, 1)), rtol=1e-4, atol=1e-4)\n"
        "print(engines_report()[0]['reason'])"
    )
    assert "numba is not installed" in out


def test_machine_code_is_kept_on_disk(tmp_path):
    """Two kernels compiled by two processes are found, and told apart, by a third."""
    code = """
import sys, torch
from prismify.kernels import deep_prism, reference
from prismify.kernels.cpu import compile as cpu_compile, support as cpu
for name in sys.argv[1:]:
    dtype = getattr(torch, name)
    u, w = torch.randn(1, 9, 5, 20, dtype=dtype), torch.randn(3, 3, 3, dtype=dtype)
    torch.testing.assert_close(deep_prism(u, w, padding=(1, 1)), reference.deep_prism(u, w, padding=(1, 1)))
    lanes = cpu.vector_bytes() // dtype.itemsize
    print(cpu_compile.compiled("forward", name, 3, 3, 8, lanes, "plain").cache_hits)
"""
    folder = str(tmp_path)
    assert run(code, "float32", NUMBA_CACHE_DIR=folder).split() == ["0"]
    assert run(code, "float64", NUMBA_CACHE_DIR=folder).split() == ["0"]
    assert run(code, "float32", "float64", NUMBA_CACHE_DIR=folder).split() == ["1", "1"]


#: One call against the definition; and whether Numba's functions were still left to their kernels.
ONE_CALL = """
u, w = torch.randn(1, 9, 5, 20), torch.randn(3, 3, 3)
torch.testing.assert_close(deep_prism(u, w, padding=(1, 1)), reference.deep_prism(u, w, padding=(1, 1)))
print(parts.left_to_kernels)
"""
CHANGED = {
    "moved": "del codegen.JITCodeLibrary",
    "lowered otherwise": "parts._lowering()[1].run_pass = lowered",
    "linked otherwise": "codegen.CPUCodeLibrary._get_module_for_linking = linked",
}


@pytest.mark.parametrize("change", CHANGED.values(), ids=CHANGED)
def test_a_numba_whose_inside_has_changed_compiles_its_own_way(change, tmp_path):
    code = f"""
import torch
from numba.core import codegen
from prismify.kernels import deep_prism, reference
from prismify.kernels.cpu import parts
def lowered(self, state): raise AttributeError("no such thing inside")
link = codegen.CPUCodeLibrary._get_module_for_linking
def linked(self):
    if type(self).__name__ == "Part": raise AttributeError("no such thing inside")
    return link(self)
{change}
"""
    assert run(code + ONE_CALL, NUMBA_CACHE_DIR=str(tmp_path)).split() == ["False"]


def test_where_nothing_can_be_kept_a_kernel_is_compiled_for_this_process(tmp_path):
    code = """
import torch
from numba.core.caching import IndexDataCacheFile
from prismify.kernels import deep_prism, reference
from prismify.kernels.cpu import parts
def full(*_): raise OSError(28, "No space left on device")
IndexDataCacheFile.save = full
"""
    assert run(code + ONE_CALL, NUMBA_CACHE_DIR=str(tmp_path)).split() == ["True"]


def test_only_kernels_become_machine_code(tmp_path):
    """What a kernel calls is emitted with it, and not before it once more."""
    code = """
import torch
from llvmlite.binding import ExecutionEngine
from prismify.kernels import deep_prism
names = []
add = ExecutionEngine.add_module
def noted(self, module):
    if any("prismify" in function.name for function in module.functions if not function.is_declaration):
        names.append(module.name)
    return add(self, module)
ExecutionEngine.add_module = noted
u, w = torch.randn(1, 9, 5, 20), torch.randn(3, 3, 3, requires_grad=True)
deep_prism(u, w, padding=(1, 1)).sum().backward()
print(*names)
"""
    forward, backward = run(code, NUMBA_CACHE_DIR=str(tmp_path)).split()
    assert forward.startswith("forward_float32")
    assert backward.startswith("correlate_float32")


@pytest.mark.parametrize(("terminal", "rank", "told"), [(True, "0", True), (True, "1", False), (False, "0", False)])
def test_who_looks_on_is_told_once_why_a_first_call_takes_seconds(terminal, rank, told, tmp_path):
    code = """
import io, sys, torch
from prismify.kernels import deep_prism
class Shown(io.StringIO):
    def isatty(self): return sys.argv[1] == "True"
sys.stderr = shown = Shown()
for dtype in (torch.float32, torch.float64):
    deep_prism(torch.randn(1, 9, 5, 20, dtype=dtype), torch.randn(3, 3, 3, dtype=dtype), padding=(1, 1))
print(shown.getvalue())
"""
    wanted = "compiling prismify's CPU kernels: a first call takes seconds" if told else ""
    assert run(code, str(terminal), NUMBA_CACHE_DIR=str(tmp_path), RANK=rank).strip() == wanted
    if told:
        assert run(code, str(terminal), NUMBA_CACHE_DIR=str(tmp_path), RANK=rank).strip() == ""


@pytest.mark.parametrize("stream", ["None", "object()", "closed"])
def test_whatever_became_of_stderr_a_kernel_is_compiled(stream, tmp_path):
    code = f"""
import io, sys, torch
from prismify.kernels import deep_prism
from prismify.kernels.cpu import parts
closed = io.StringIO(); closed.close()
sys.stderr = {stream}
deep_prism(torch.randn(1, 9, 5, 20), torch.randn(3, 3, 3), padding=(1, 1))
sys.stderr = sys.__stderr__  # which the interpreter flushes at its end
print(parts.left_to_kernels)
"""
    assert run(code, NUMBA_CACHE_DIR=str(tmp_path)).split() == ["True"]
