"""What is checked after a conversion: the output shapes, and that gradients reach every new weight."""

from __future__ import annotations

import warnings
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from .errors import ConversionError
from .graph import Capture, EntryPoint, ExampleInputs
from .graph.capture import record
from .graph.flow import output_nodes, shape
from .graph.isolation import fake_weights, saved_buffers, swapped_tensors, undisturbed
from .graph.recorder import tensors_in

#: Images larger than this are halved for the gradient check, which asks whether gradients arrive, not how fast.
_LARGEST_SIDE = 32


def verify(converted: nn.Module, capture: Capture, new: Mapping[str, nn.Module]) -> None:
    """Compare output shapes with the original's, and run a backward pass that must reach every new weight.

    Models on `meta` have no values, so only their shapes are compared; a model that was not captured is
    not run at all.

    Raises:
        ConversionError: an output shape changed, or a gradient is missing or not finite.
    """
    entries = [e for e in capture.entries if e.inputs is not None]
    with undisturbed(converted), saved_buffers(converted), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for entry in entries:
            if entry.technique == "recorder on fake tensors":
                _check_shapes(converted, entry)
        if any(p.device.type == "meta" for p in converted.parameters()):
            return
        missing = set(new)
        for entry in entries:
            if missing:
                missing -= _check_gradients(converted, entry, new)
        if missing and entries:
            name = sorted(missing)[0]
            raise ConversionError(
                f"{name}: no gradient reaches its new weight, so it cannot be trained; keep it with --exclude {name!r}"
            )


def _check_shapes(converted: nn.Module, entry: EntryPoint) -> None:
    assert entry.inputs is not None
    try:
        shapes = _output_shapes(converted, entry.method, entry.inputs)
    except Exception as error:
        text = " ".join(str(error).split())[:300]
        raise ConversionError(f"the converted model fails in {entry.method}: {text}") from error
    if shapes != entry.output_shapes:
        raise ConversionError(
            f"{entry.method} returned {list(entry.output_shapes)} and would return {list(shapes)} after conversion"
        )


def _output_shapes(model: nn.Module, method: str, inputs: ExampleInputs) -> tuple[tuple[int, ...], ...]:
    with fake_weights(model) as (mode, fake), mode:
        graph = record(model, method, inputs.map(fake))
    return tuple(shape(node) for node in output_nodes(graph))


def _check_gradients(model: nn.Module, entry: EntryPoint, new: Mapping[str, nn.Module]) -> set[str]:
    """The new layers whose weights got finite gradients from this entry point."""
    assert entry.inputs is not None
    wanted = {id(p) for module in new.values() for p in module.parameters()}
    stand_ins: dict[int, Tensor] = {}

    def stand_in(tensor: Tensor) -> Tensor:
        # The model's own flags and gradients stay untouched, and half precision is judged in float32,
        # where an untrained network does not overflow.
        if id(tensor) not in stand_ins:
            value = _single(tensor.detach())
            stand_ins[id(tensor)] = value.requires_grad_() if id(tensor) in wanted else value
        return stand_ins[id(tensor)]

    inputs = _smaller(model, entry).map(_single)
    parameters = {name: list(module.parameters()) for name, module in new.items()}
    # The backward pass belongs inside: gradient checkpointing runs the model again there.
    with swapped_tensors(model, stand_in), torch.enable_grad():
        output = getattr(model, entry.method)(*inputs.args, **inputs.kwargs)
        loss = sum(
            (t.float().square().mean() for t in tensors_in(output) if t.is_floating_point() and t.requires_grad),
            start=torch.zeros(()),
        )
        if not loss.requires_grad:
            return _used(model, entry, new)
        weights = [stand_ins[i] for i in wanted]
        found = torch.autograd.grad(loss, weights, allow_unused=True)
    gradients = dict(zip(wanted, found, strict=True))
    reached = set()
    for name, members in parameters.items():
        own = [gradients[id(p)] for p in members]
        if any(g is not None and not bool(torch.isfinite(g).all()) for g in own):
            raise ConversionError(f"{name}: the gradient of its new weight is not finite in {entry.method}")
        if all(g is not None for g in own):
            reached.add(name)
    return reached


def _single(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


def _used(model: nn.Module, entry: EntryPoint, new: Mapping[str, nn.Module]) -> set[str]:
    """The new layers that run at all: what can be said of a method that turns gradients off itself."""
    assert entry.inputs is not None
    with fake_weights(model) as (mode, fake), mode:
        graph = record(model, entry.method, entry.inputs.map(fake))
    names = {name for node in graph.nodes for name in node.meta.get("parameter", ())}
    return {name for name, module in new.items() if {f"{name}.{n}" for n, _ in module.named_parameters()} <= names}


def _smaller(model: nn.Module, entry: EntryPoint) -> ExampleInputs:
    """The entry's inputs with images halved until they are small, where the model runs on those."""
    assert entry.inputs is not None
    inputs = entry.inputs
    while True:
        images = [t for _, t in inputs.tensors() if t.dim() >= 4]
        if not images or any(min(t.shape[-2:]) <= _LARGEST_SIDE or t.shape[-1] % 2 or t.shape[-2] % 2 for t in images):
            return inputs
        halved = inputs.map(lambda t: t[..., : t.shape[-2] // 2, : t.shape[-1] // 2] if t.dim() >= 4 else t)
        try:
            _output_shapes(model, entry.method, halved)
        except Exception:
            return inputs
        inputs = halved
