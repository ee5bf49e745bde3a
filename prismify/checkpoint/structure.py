"""A model without its weights: how it is written down, and built again."""

from __future__ import annotations

import io
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import fx, nn

from ..errors import PlanError, PrismifyError, SourceError, UnsafePickleError
from ..families import family
from ..graph import unwrap
from ..layers import own_operators
from ..layers.own import class_of
from ..plan import Plan
from ..rewrite import copied, replay
from .formats import classes_in, read_pickle
from .imports import copy_with_neighbours
from .manifest import CONFIG_NAME, MANIFEST_NAME, read_config
from .references import Reference, build_empty, parse_reference
from .values import readable_pickle

SKELETON_NAME = "skeleton.pt"


def rebuild_from(reference: Reference) -> dict[str, Any] | None:
    """What `build_structure` needs to follow a reference; None where only a skeleton will do.

    Libraries change a model when they give it weights of their own (torchvision's GoogLeNet loses its
    auxiliary heads and gains an input transform), so a reference without them is another model.
    """
    if reference.pretrained and not reference.runs_code:
        return None
    plain = reference.without_pretrained()
    return {"kind": "reference", "reference": str(plain), "arguments": plain.arguments}


def describe(model: nn.Module) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """How to rebuild a model that came as an object, and its `config.json` where it has one."""
    if type(model).__module__.startswith("diffusers."):
        config = family("diffusers").config_of(model)
        if config is not None and _same_structure(model, config):
            return {"kind": "diffusers"}, config
    return {"kind": "skeleton", "class": class_name(model)}, None


def write_structure(model: nn.Module, rebuild: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Put into `folder` what `build_structure` needs beside `rebuild`; returns `rebuild` as seen from there.

    Raises:
        SourceError: the model cannot be described.
    """
    if rebuild["kind"] == "skeleton":
        _write_skeleton(model, folder / SKELETON_NAME)
    if rebuild["kind"] == "reference":
        reference = parse_reference(rebuild["reference"], rebuild["arguments"])
        if reference.file is not None:
            copy_with_neighbours(reference.file, folder)
            return {**rebuild, "reference": f"{reference.file.name}:{reference.target}"}
    return rebuild


def build_structure(
    folder: Path, how: dict[str, Any], plan: Plan, *, allow: Collection[str] = (), trust_code: bool = False
) -> nn.Module:
    """The converted model that a folder describes, its parameters on `meta`.

    Raises:
        SourceError: the description is damaged, or runs code that is not trusted.
    """
    kind = how.get("kind")
    with damaged_if_it_fails(folder):
        if kind == "skeleton":
            own = [class_of(operator) for operator in own_operators().values()]  # which the person imported
            skeleton = read_pickle(folder / SKELETON_NAME, allow=[*allow, *own], skeleton=True)
            if not isinstance(skeleton, nn.Module):
                raise SourceError(f"{folder / SKELETON_NAME} holds no module")
            skeleton.prismify_plan = plan  # type: ignore[assignment]
            return skeleton
        if kind == "diffusers":
            config = read_config(folder)
            if config is None:
                raise SourceError(f"{folder} has lost its {CONFIG_NAME}")
            return replay(build_empty(lambda: family("diffusers").from_config(config)), plan)
        if kind == "reference":
            return replay(unwrap(referred(folder, how, trust_code).build(empty=True)), plan)
    raise SourceError(f"{folder / MANIFEST_NAME}: cannot rebuild a model of kind {kind!r}")


def check_structure(model: nn.Module, fresh: nn.Module, how: str) -> None:
    """See that a rebuilt model is the same one, before it is relied on.

    Raises:
        SourceError: it has other modules, parameters or buffers.
    """
    ours, theirs = ({n: type(m).__qualname__ for n, m in m_.named_modules()} for m_ in (model, fresh))
    shapes = [{n: tuple(t.shape) for n, t in m.state_dict().items() if isinstance(t, torch.Tensor)}
              for m in (model, fresh)]  # fmt: skip
    for what, (mine, built) in (("module", (ours, theirs)), ("tensor", shapes)):
        for name in dict.fromkeys([*mine, *built]):
            if mine.get(name) != built.get(name):
                raise SourceError(
                    f"{how} does not build this model: {what} {name or 'itself'} is {mine.get(name, 'missing')} here "
                    f"and {built.get(name, 'missing')} there"
                )


def class_name(model: object) -> str:
    """`package.module.Class`."""
    return f"{type(model).__module__}.{type(model).__qualname__}"


@contextmanager
def damaged_if_it_fails(folder: Path) -> Iterator[None]:
    """Whatever goes wrong inside is the folder's fault, and said in one line."""
    try:
        yield
    except PlanError as error:
        raise SourceError(f"{folder / MANIFEST_NAME}: {error}") from error
    except PrismifyError:
        raise
    except Exception as error:
        text = " ".join(str(error).split())[:300]
        raise SourceError(f"{folder} is damaged: {type(error).__name__}: {text}") from error


def referred(folder: Path, how: dict[str, Any], trust_code: bool) -> Reference:
    """The factory that a folder names, its file looked for in the folder itself.

    Raises:
        SourceError: it runs code that is not trusted.
    """
    reference = parse_reference(str(how.get("reference")), how.get("arguments")).without_pretrained()
    if reference.runs_code and not trust_code:
        raise SourceError(
            f"{folder} is built by {reference}, which runs Python code: "
            "load it with trust_code=True (--trust-code), or give the model yourself with model=..."
        )
    if reference.file is not None:
        return Reference(str(folder / reference.file.name), reference.target, reference.arguments)
    return reference


def holds_graph(model: nn.Module) -> bool:
    """Whether a model is, or has a part that is, a `GraphModule`."""
    return any(isinstance(module, fx.GraphModule) for module in model.modules())


def _same_structure(model: nn.Module, config: dict[str, Any]) -> bool:
    """Whether a diffusers config makes this converted model again: people change models after building them."""
    plan: Plan = model.prismify_plan  # type: ignore[assignment]
    try:
        fresh = replay(build_empty(lambda: family("diffusers").from_config(config)), plan)
        check_structure(model, fresh, "its config")
    except PrismifyError:
        return False
    return True


def _write_skeleton(model: nn.Module, path: Path) -> None:
    """Pickle the modules with their parameters and saved buffers on `meta`."""
    if holds_graph(model):
        raise SourceError(
            f"{type(model).__name__} holds a GraphModule, which is code and cannot be loaded safely: "
            "give save a reference to a factory, such as reference='package.module:factory'"
        )
    saved = {id(v) for v in model.state_dict(keep_vars=True).values()}
    memo: dict[int, Any] = {id(model.prismify_plan): None}
    for parameter in model.parameters():
        memo[id(parameter)] = nn.Parameter(parameter.detach().to("meta"), requires_grad=parameter.requires_grad)
    for buffer in model.buffers():
        if id(buffer) in saved:
            memo[id(buffer)] = buffer.detach().to("meta")
    content = io.BytesIO()
    try:
        torch.save(copied(model, {}, memo), content, pickle_module=readable_pickle)
        path.write_bytes(content.getvalue())
        # What is written is seen to be read again: classes can be allowed, functions of Python's own cannot.
        read_pickle(path, allow=classes_in(path), skeleton=True)
    except Exception as error:
        text = " ".join(str(error).split()).replace(f"{path} ", "it ")[:200]
        if isinstance(error, UnsafePickleError):  # told to whoever reads a file
            text = text.partition(", which could run code")[0] + ", which load would refuse"
        raise SourceError(
            f"{type(model).__name__} cannot be described by pickling it ({text}): "
            "give save a reference to its factory, such as reference='package.module:factory'"
        ) from error
