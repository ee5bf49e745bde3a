"""The pages about the interface in Python: a directive of mkdocstrings for every name that a package hands out."""

from __future__ import annotations

import importlib
from collections.abc import Iterable

#: The pages below `api`: title, what it is for, and the package whose public names it has.
PACKAGES = {
    "layers": ("Layers", "Operators as modules.", "prismify.layers"),
    "kernels": ("Kernels", "How the operator is computed: functions on tensors, and the engines.", "prismify.kernels"),
    "plan": ("Plans and policies", "What is decided, layer by layer.", "prismify.plan"),
    "facts": ("Facts about layers", "What a policy is told of each layer.", "prismify.facts"),
    "graph": ("Graphs", "How a model becomes a graph, and what is read off it.", "prismify.graph"),
    "checkpoint": ("Folders and sources", "What is stored, and what is read.", "prismify.checkpoint"),
    "diffusion": ("Denoisers", "Noise, and pictures made of it.", "prismify.diffusion"),
    "search": ("Search", "The smallest model that still works.", "prismify.search"),
    "bench": ("Timing", "Layers and models against what they replace.", "prismify.bench"),
    "export": ("Export", "Files for other runtimes.", "prismify.export"),
}


def names_of(package: str) -> tuple[str, ...]:
    """What a package hands out, but for plain values and type aliases, which have nothing to say."""
    module = importlib.import_module(package)
    return tuple(name for name in module.__all__ if hasattr(getattr(module, name), "__qualname__"))


def pages() -> dict[str, str]:
    """Markdown by the name of the page."""
    found = {
        "index": _page("In Python", "The public list: `import prismify`, and these.", "prismify", names_of("prismify"))
    }
    for name, (title, purpose, package) in PACKAGES.items():
        found[name] = _page(title, purpose, package, names_of(package))
    return found


def _page(title: str, purpose: str, package: str, names: Iterable[str]) -> str:
    lines = [f"# {title}", "", purpose, ""]
    for name in names:
        lines += [f"::: {package}.{name}", ""]
    return "\n".join(lines)
