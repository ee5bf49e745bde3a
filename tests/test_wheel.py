"""What is handed out: a wheel made of an sdist made of a clean copy, installed where no checkout can be found."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from collections.abc import Callable
from pathlib import Path
from shutil import copy2, copytree, ignore_patterns

import pytest

ROOT = Path(__file__).parents[1]
#: What is no source: environments, caches, what builds and demonstrations leave.
LEFT_OUT = (".git", ".venv", "__pycache__", "*.egg-info", "build", "dist", "demo", "runs", ".*_cache")
STANZA = tomllib.loads((ROOT / "pyproject.toml").read_text())
#: Every file beside the modules that a command reads.
DATA = {
    "prismify/py.typed",
    *(f"prismify/{path.relative_to(ROOT)}" for path in (ROOT / "recipes").rglob("*.yaml")),
    *(str(path.relative_to(ROOT)) for path in (ROOT / "prismify" / "pretrained").glob("*/*")),
}


def built(kind: str, source: Path, into: Path) -> Path:
    """What setuptools builds of a folder, as `pip wheel --no-build-isolation` asks it to: without a network."""
    code = f"from setuptools import build_meta; print('made:', build_meta.build_{kind}({str(into)!r}))"
    done = subprocess.run([sys.executable, "-c", code], cwd=source, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return into / done.stdout.rpartition("made: ")[2].strip()


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("setuptools", minversion="77")
    place = tmp_path_factory.mktemp("sdist")
    copy = place / "copy"
    copy.mkdir()
    for entry in ROOT.iterdir():
        if entry.is_file():
            copy2(entry, copy)
        elif entry.name in {
            "prismify",
            "cli",
            "recipes",
            "tests",
            "docs",
            "examples",
            "benchmarks",
            "website",
            ".ci",
            ".github",
        }:
            copytree(entry, copy / entry.name, ignore=ignore_patterns(*LEFT_OUT))
    return built("sdist", copy, place)


@pytest.fixture(scope="module")
def unpacked(sdist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("unpacked")
    with tarfile.open(sdist) as archive:
        archive.extractall(place, filter="data")
    return next(place.iterdir())


@pytest.fixture(scope="module")
def wheel(unpacked: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return built("wheel", unpacked, tmp_path_factory.mktemp("wheel"))


def test_the_sdist_holds_what_tests_need(unpacked: Path) -> None:
    there = {str(path.relative_to(unpacked)) for path in unpacked.rglob("*") if path.is_file()}
    wanted = {
        str(path.relative_to(ROOT))
        for folder in ("prismify", "cli", "recipes", "tests", "docs", "examples", "benchmarks", "website")
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert wanted - there == set()
    assert {
        "Makefile",
        "mkdocs.yml",
        "README.md",
        "LICENSE",
        "CHANGELOG.md",
        "CONTRIBUTING.md",
        "CITATION.cff",
        "SECURITY.md",
    } <= there


def test_the_wheel_installs_one_package_and_every_file_that_commands_read(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {name.split("/")[0] for name in names if ".dist-info/" not in name} == {"prismify"}
    assert len(DATA) > 15
    assert DATA - names == set()
    modules = {f"{name.replace('.', '/')}/__init__.py" for name in STANZA["tool"]["setuptools"]["packages"]}
    assert modules - names == set()
    assert not [name for name in names if "__pycache__" in name or "test" in name.split("/")[1]]


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh environment with the wheel, and with the libraries of this one."""
    place = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", place / "env"], check=True)
    python = place / "env" / "bin" / "python"
    words = ["-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--disable-pip-version-check"]
    subprocess.run([python, *words, wheel], check=True)
    libraries = [path for path in sys.path if Path(path).name in ("site-packages", "dist-packages")]
    site = next((place / "env").glob("lib/python*/site-packages"))
    # Folders named in a .pth file are searched last, and .pth files within them, as of a checkout, are not read.
    (site / "libraries.pth").write_text("\n".join(libraries) + "\n")
    return place / "env" / "bin"


@pytest.fixture
def command(installed: Path, tmp_path: Path) -> Callable[..., str]:
    """`command("prismify", "--help")` in an empty folder; what it says on both streams."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}

    def run(program: str, *words: object) -> str:
        done = subprocess.run(
            [installed / program, *map(str, words)], cwd=tmp_path, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert "Warning" not in done.stderr, done.stderr
        return done.stdout + done.stderr

    return run


@pytest.mark.slow
def test_the_checkout_is_out_of_sight(command: Callable[..., str], installed: Path) -> None:
    code = "import sys; from prismify import cli, recipes; print(cli.__file__, recipes.__file__, *sys.path, sep='\\n')"
    ours, recipes, *searched = command("python", "-c", code).splitlines()
    assert Path(ours).is_relative_to(installed.parent)
    assert Path(recipes).is_relative_to(installed.parent)
    assert ROOT not in map(Path, searched)
    found = "from importlib.util import find_spec; print([n for n in ('cli', 'recipes') if find_spec(n)])"
    assert command("python", "-c", found).strip() == "[]"


@pytest.mark.slow
def test_commands_run_as_installed(command: Callable[..., str], tmp_path: Path) -> None:
    assert "scan" in command("prismify", "--help")
    assert f"prismify {STANZA['project']['version']}" in command("prismify", "--version")
    listed = command("prismify", "recipes", "ls")
    assert [p.stem for p in sorted((ROOT / "recipes" / "configs").glob("*.yaml")) if p.stem not in listed] == []
    assert "recipe: autoencoder" in command("prismify", "recipes", "validate", "demo")
    assert "15.4K" in command("prismify", "report", "cifar10-ae-64")


@pytest.mark.slow
def test_the_road_of_the_demonstration_as_installed(command: Callable[..., str], tmp_path: Path) -> None:
    config = ROOT / "examples" / "configs" / "ldm-autoencoder-256"
    assert "Written to out" in command("prismify", "convert", config, "-o", "out")
    assert (tmp_path / "out" / "recipe.yaml").is_file()  # of a template
    words = ["sample", "mnist-ddpm-64", "-n", "2", "--steps", "2", "-o", "digits"]
    assert "2 pictures of 32x32" in command("prismify", *words)
    code = "import prismify; print(sum(p.numel() for p in prismify.load('cifar10-ae-64').parameters()))"
    assert command("python", "-c", code).strip() == "15415"
    picture = ROOT / "examples" / "images" / "balloons.png"
    assert " dB  mean of 1" in command("prismify", "reconstruct", "cifar10-ae-64", picture, "-o", "pictures")
