"""The house keeps its order: imports point one way, imports are light, the wheel holds every package."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Collection, Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
#: The rooms, one rank each: a room may import those above it in this list (and itself), at any depth of its code.
ORDER = (
    "version",
    "moved",
    "errors",
    "generators",
    "validation",
    "pretrained",
    "kernels",
    "layers",
    "networks",
    "families",
    "graph",
    "facts",
    "plan",
    "scanning",
    "page",
    "rewrite",
    "bench",
    "checkpoint",
    "export",
    "training",
    "publishing",
    "fresh",
    "diffusion",
    "metrics",
    "search",
    "recipes",
    "paper",
    "cli",
)
#: Where the sources lie that install as `prismify`, `prismify.cli` and `prismify.recipes`.
SOURCES = {"prismify": "prismify", "cli": "prismify.cli", "recipes": "prismify.recipes"}
MOST_FILES, MOST_LINES = 16, 250
HEAVY = ("diffusers", "timm", "torchvision", "triton", "numba", "rich", "typer", "accelerate", "torchmetrics")


def sources() -> dict[str, Path]:
    """Every module by its name."""
    found = {}
    for folder, package in SOURCES.items():
        for path in sorted((ROOT / folder).rglob("*.py")):
            parts = path.relative_to(ROOT / folder).with_suffix("").parts
            found[".".join([package, *(p for p in parts if p != "__init__")])] = path
    return found


def imports(module: str, path: Path, known: Collection[str]) -> set[str]:
    """The modules among `known` that one imports, anywhere in its code, but for the top package's lazy names."""
    package = module.split(".") if path.name == "__init__.py" else module.split(".")[:-1]
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            home = ".".join([*above, *([node.module] if node.module else [])])
            within = {name.name: f"{home}.{name.name}" for name in node.names}
            found |= {full if full in known else home for full in within.values()}
    return {name for name in found if name in known} - {module, "prismify"}


def arrows() -> dict[str, set[str]]:
    """Which module imports which."""
    found = sources()
    return {name: imports(name, path, found) for name, path in found.items() if name != "prismify"}


def circle(graph: Mapping[str, Collection[str]]) -> list[str]:
    """The modules of one circle, in order; [] where there is none."""
    done: set[str] = set()

    def visit(name: str, way: list[str]) -> list[str]:
        if name in way:
            return [*way[way.index(name) :], name]
        if name in done:
            return []
        for other in graph.get(name, ()):
            if found := visit(other, [*way, name]):
                return found
        done.add(name)
        return []

    return next((found for name in graph if (found := visit(name, []))), [])


def test_dependencies_point_one_way():
    rank = {f"prismify.{name}": number for number, name in enumerate(ORDER)}

    def room(module: str) -> str:
        return ".".join(module.split(".")[:2])

    assert {room(name) for name in arrows()} == set(rank)
    against = [
        f"{name} imports {other}"
        for name, others in arrows().items()
        for other in others
        if rank[room(other)] > rank[room(name)]
    ]
    assert against == []


def test_no_module_imports_itself_by_way_of_others():
    assert circle(arrows()) == []


def test_a_circle_is_seen():
    assert circle({"a": ["b"], "b": ["c"], "c": []}) == []
    assert circle({"a": ["b"], "b": ["c", "d"], "c": [], "d": ["b"]}) == ["b", "d", "b"]


def test_modules_imported_by_name_are_there():
    names = [
        node.args[0].value
        for path in sources().values()
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module")
        if isinstance(node.args[0], ast.Constant)
    ]
    ours = [name for name in names if name.startswith(("prismify", "."))]
    assert ours
    assert [name for name in ours if name not in sources()] == []  # by their whole names, so that they can be found


def test_rooms_are_small():
    folders = {path.parent for path in (ROOT / "prismify").rglob("*.py")}
    crowded = {str(f.relative_to(ROOT)): n for f in folders if (n := len(list(f.glob("*.py")))) > MOST_FILES}
    assert crowded == {}


def test_classes_are_short():
    long = {
        f"{name}.{node.name}": lines
        for name, path in sources().items()
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ClassDef) and (lines := node.end_lineno - node.lineno + 1) >= MOST_LINES
    }
    assert long == {}


def test_every_room_says_what_it_is_for():
    for name, path in sources().items():
        if path.name == "__init__.py":
            assert len(ast.get_docstring(ast.parse(path.read_text())) or "") > 40, name


def test_only_their_rooms_import_the_heavy_libraries():
    allowed = {"rich": "cli", "typer": "cli", "diffusers": "families", "timm": "families", "torchvision": "families"}
    for path in sources().values():
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


def test_the_page_about_the_house_is_true():
    """Its table has the rooms in their order, and every path that the pages name is there."""
    page = (ROOT / "docs" / "architecture.md").read_text()
    table = [line for line in page.split("| room |")[1].split("\n\n")[0].splitlines() if line.startswith("| `")]
    assert [name for line in table for name in re.findall(r"`(\w+)`", line.split("|")[1])] == list(ORDER)
    for path in (ROOT / "docs").glob("*.md"):
        for name in re.findall(r"(?:prismify|cli|recipes|tests|benchmarks|examples)/[\w/]+\.py\b", path.read_text()):
            assert (ROOT / name).is_file(), f"{path.name} names {name}"
    for name in re.findall(r"`((?:\w+/)+\w*(?:\.py)?)`", page):
        if name.split("/")[0] in ORDER:
            base = ROOT if name.startswith(("cli", "recipes")) else ROOT / "prismify"
            assert (base / name).exists(), name
