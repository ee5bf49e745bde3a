"""The house keeps its order: imports point one way, imports are light, the wheel holds every package."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# Each room may import those before it (and itself).
ORDER = [
    {"errors", "generators", "pretrained"},
    {"kernels"},
    {"layers"},
    {"families"},
    {"graph"},
    {"validation", "count", "obstacles", "weight_uses", "projections", "inventory", "plan", "policies"},
    {"scanning", "report"},
    {"copying", "rewrite", "rewrite_graph", "rewrite_program", "verify", "handoff"},
    {"fusion"},
    {"bench"},
    {"checkpoint"},
    {"training"},
    {"metrics"},
    {"recipes"},
    {"cli"},
]
HEAVY = ("diffusers", "timm", "torchvision", "triton", "numba", "rich", "typer", "accelerate", "torchmetrics")


def room(name: str) -> int:
    return next(i for i, names in enumerate(ORDER) if name in names)


def files() -> list[Path]:
    return [*sorted((ROOT / "prismify").rglob("*.py")), *sorted((ROOT / "cli").glob("*.py"))]


def imports(path: Path) -> set[str]:
    """First names below `prismify` that a file imports, relative or absolute."""
    found = set()
    depth = len(path.relative_to(ROOT if path.is_relative_to(ROOT / "cli") else ROOT / "prismify").parts)
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level == depth:
            found |= {node.module.split(".")[0]} if node.module else {a.name for a in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module.startswith("prismify."):
            found.add(node.module.split(".")[1])
    return found


@pytest.mark.parametrize("path", files(), ids=lambda p: str(p.relative_to(ROOT)))
def test_dependencies_point_one_way(path):
    parts = path.relative_to(ROOT).parts
    here = "cli" if parts[0] == "cli" else parts[1].removesuffix(".py")
    if here == "__init__":
        return
    for name in imports(path) - {"__version__", here}:
        assert room(name) <= room(here), f"{path} imports {name}, which stands above it"


def test_only_their_rooms_import_the_heavy_libraries():
    allowed = {"rich": "cli", "typer": "cli", "diffusers": "families", "timm": "families", "torchvision": "families"}
    for path in files():
        for node in ast.walk(ast.parse(path.read_text())):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) and node.level == 0 else []
            for name in names:
                root = name.split(".")[0]
                if root in allowed:
                    assert allowed[root] in path.parts, f"{path} imports {root}"


def test_importing_prismify_is_light():
    code = (
        "import sys, prismify; from prismify.layers import DeepPrism; import prismify.rewrite.module, torch\n"
        f"assert not set({HEAVY!r}) & set(sys.modules), set({HEAVY!r}) & set(sys.modules)\n"
        "assert not torch.cuda.is_initialized()"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_every_package_is_in_the_wheel():
    stanza = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    found = {"prismify." + str(p.parent.relative_to(ROOT / "prismify")).replace("/", ".")
             for p in (ROOT / "prismify").rglob("__init__.py")}  # fmt: skip
    found = {name.removesuffix("..") for name in found} | {"prismify.cli", "prismify.recipes"}
    assert set(stanza["packages"]) == {name.rstrip(".") for name in found}


def test_one_version():
    import prismify

    assert tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"] == prismify.__version__


def test_docstring_examples():
    import doctest
    import importlib

    names = [".".join(p.relative_to(ROOT).with_suffix("").parts) for p in (ROOT / "prismify").rglob("*.py")]
    names = [n.removesuffix(".__init__") for n in names if "families" not in n]
    results = [doctest.testmod(importlib.import_module(name)) for name in names]
    assert sum(r.attempted for r in results) > 10
    assert sum(r.failed for r in results) == 0


@pytest.mark.parametrize(
    "path", [*(ROOT / "benchmarks").glob("*.py"), *(ROOT / "examples").rglob("*.py")], ids=lambda p: p.name
)
def test_scripts_name_only_what_is_there(path):
    """Scripts that no test runs import what exists all the same."""
    import importlib

    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "prismify":
            module = importlib.import_module(node.module)
            for name in node.names:
                if not hasattr(module, name.name):
                    importlib.import_module(f"{node.module}.{name.name}")
