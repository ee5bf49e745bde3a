"""The pages about the interface in Python: a directive of mkdocstrings for every name that a package hands out."""

from __future__ import annotations

import importlib

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
    return tuple(name for name in importlib.import_module(package).__all__ if _module_of(package, name))


def pages() -> dict[str, str]:
    """Markdown by the name of the page."""
    found = {"index": _page("In Python", "The public list: `import prismify`, and these.", "prismify")}
    for name, (title, purpose, package) in PACKAGES.items():
        found[name] = _page(title, purpose, package)
    return found


def _module_of(package: str, name: str) -> str:
    """Where a class or a function of ours is defined; nothing of another thing."""
    thing = getattr(importlib.import_module(package), name)
    module = getattr(thing, "__module__", None) or ""
    return module if hasattr(thing, "__qualname__") and module.partition(".")[0] == "prismify" else ""


def _page(title: str, purpose: str, package: str) -> str:
    """The names of a package; those of the public list are on their page, and only named on others."""
    names = names_of(package)
    public = [name for name in names if package != "prismify" and name in names_of("prismify")]
    lines = [f"# {title}", "", purpose, ""]
    if public:
        lines += [f"In [the public list](index.md): {', '.join(f'`{name}`' for name in public)}.", ""]
    for name in names:
        if name not in public:
            lines += _directive(package, name)
    return "\n".join(lines)


def _directive(package: str, name: str) -> list[str]:
    """By the place of its definition: a package's `scan` may be a module of the package too, which is read instead."""
    heading = ["    options:", f"      heading: {package}.{name}", f"      toc_label: {name}"]
    return [f"::: {_module_of(package, name)}.{name}", *heading, ""]
