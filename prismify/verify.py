"""What is checked after a conversion: the output shapes, and that gradients reach every new weight."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from .errors import ConversionError, one_line
from .graph import Capture, EntryPoint, ExampleInputs
from .graph.capture import device_of, record
from .graph.flow import output_nodes, shape
from .graph.isolation import cloned_tensors, fake_weights, swapped_tensors, undisturbed
from .graph.recorder import tensors_in

#: Images larger than this are halved for the gradient check, which asks whether gradients arrive, not how fast.
_LARGEST_SIDE = 32
_HALF = (torch.float16, torch.bfloat16)


def verify(converted: nn.Module, capture: Capture, new: Mapping[str, nn.Module]) -> None:
    """Compare output shapes with the original's, and run a backward pass that must reach every new weight.

    Models on `meta` have no values, so only their shapes are compared; a model that was not captured is
    not run at all. The check runs on copies of the weights.

    Raises:
        ConversionError: the model no longer runs, an output shape changed, or a gradient is missing or not finite.
    """
    entries = [e for e in capture.entries if e.inputs is not None]
    has_values = not any(t.is_meta for t in (*converted.parameters(), *converted.buffers()))
    for entry in entries:
        fake = entry.technique == "recorder on fake tensors"
        if fake or has_values:
            _check_shapes(converted, entry, fake)
    if not has_values:
        return
    missing = set(new)
    for entry in entries:
        if missing:
            missing -= _check_gradients(converted, entry, new)
    if capture.skipped:  # what only an uncaptured method runs cannot be judged
        missing &= {node.meta.get("module") for _, graph in capture.graphs for node in graph.nodes}
    if missing and entries:
        name = sorted(missing)[0]
        raise ConversionError(
            f"{name}: no gradient reaches its new weight, so it cannot be trained; keep it with --exclude {name!r}"
        )


def _check_shapes(converted: nn.Module, entry: EntryPoint, fake: bool) -> None:
    assert entry.inputs is not None
    try:
        shapes = _output_shapes(converted, entry.method, entry.inputs, fake)
    except Exception as error:
        raise ConversionError(f"the converted model fails in {entry.method}: {one_line(error)}") from error
    if shapes != entry.output_shapes:
        raise ConversionError(
            f"{entry.method} returned {list(entry.output_shapes)} and would return {list(shapes)} after conversion"
        )


def _output_shapes(model: nn.Module, method: str, inputs: ExampleInputs, fake: bool) -> tuple[tuple[int, ...], ...]:
    if fake:
        with undisturbed(model), fake_weights(model) as (mode, make), mode:
            graph = record(model, method, inputs.map(make))
    else:
        with undisturbed(model), cloned_tensors(model):
            graph = record(model, method, inputs.map(lambda t: t.to(device_of(model), copy=True)))
    return tuple(shape(node) for node in output_nodes(graph))


def _check_gradients(model: nn.Module, entry: EntryPoint, new: Mapping[str, nn.Module]) -> set[str]:
    """The new layers whose weights got finite gradients from this entry point."""
    # Half precision is judged in float32, where an untrained network does not overflow, unless the model
    # insists on its own type.
    attempts = (True, False) if any(p.dtype in _HALF for p in model.parameters()) else (False,)
    for in_single in attempts:
        try:
            gradients = _gradients(model, entry, new, in_single)
            break
        except Exception as error:
            if in_single == attempts[-1]:
                reason = one_line(error)
                raise ConversionError(
                    f"a backward pass of the converted model fails in {entry.method}: {reason}"
                ) from error
    if gradients is None:
        return _used(model, entry, new)
    reached = set()
    for name, module in new.items():
        own = [gradients[id(p)] for p in module.parameters()]
        if any(g is not None and not bool(torch.isfinite(g).all()) for g in own):
            raise ConversionError(f"{name}: the gradient of its new weight is not finite in {entry.method}")
        if all(g is not None for g in own):
            reached.add(name)
    return reached


def _gradients(
    model: nn.Module, entry: EntryPoint, new: Mapping[str, nn.Module], in_single: bool
) -> dict[int, Tensor | None] | None:
    """The gradient of each new parameter, by the parameter's id; None where the method turns gradients off."""
    wanted = {id(p) for module in new.values() for p in module.parameters()}
    stand_ins: dict[int, Tensor] = {}

    def stand_in(tensor: Tensor) -> Tensor:
        # Copies: the model's own values, flags and gradients stay untouched.
        if id(tensor) not in stand_ins:
            value = _single(tensor.detach()) if in_single else tensor.detach()
            value = value.clone() if value.data_ptr() == tensor.data_ptr() else value
            stand_ins[id(tensor)] = value.requires_grad_() if id(tensor) in wanted else value
        return stand_ins[id(tensor)]

    inputs = _smaller(model, entry).map(lambda t: (_single(t) if in_single else t).to(device_of(model), copy=True))
    # The backward pass belongs inside: gradient checkpointing runs the model again there.
    with undisturbed(model), swapped_tensors(model, stand_in), torch.enable_grad():
        output = getattr(model, entry.method)(*inputs.args, **inputs.kwargs)
        loss = sum(
            (t.float().square().mean() for t in tensors_in(output) if t.is_floating_point() and t.requires_grad),
            start=torch.zeros(()),
        )
        if not loss.requires_grad:
            return None
        found = torch.autograd.grad(loss, [stand_ins[i] for i in wanted], allow_unused=True)
    return dict(zip(wanted, found, strict=True))


def _single(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.dtype in _HALF else tensor


def _used(model: nn.Module, entry: EntryPoint, new: Mapping[str, nn.Module]) -> set[str]:
    """The new layers that run at all: what can be said of a method that turns gradients off itself."""
    assert entry.inputs is not None
    names = {name: {f"{name}.{n}" for n, _ in module.named_parameters()} for name, module in new.items()}
    with undisturbed(model), cloned_tensors(model):
        graph = record(model, entry.method, entry.inputs.map(lambda t: t.to(device_of(model), copy=True)))
    run = {name for node in graph.nodes for name in node.meta.get("parameter", ())}
    return {name for name, own in names.items() if own <= run}


def _smaller(model: nn.Module, entry: EntryPoint) -> ExampleInputs:
    """The entry's inputs with images halved until they are small, where the model runs on those."""
    assert entry.inputs is not None
    inputs = entry.inputs
    while entry.technique == "recorder on fake tensors":
        images = [t for _, t in inputs.tensors() if t.dim() >= 4]
        if not images or any(min(t.shape[-2:]) <= _LARGEST_SIDE or t.shape[-1] % 2 or t.shape[-2] % 2 for t in images):
            break
        halved = inputs.map(lambda t: t[..., : t.shape[-2] // 2, : t.shape[-1] // 2] if t.dim() >= 4 else t)
        try:
            _output_shapes(model, entry.method, halved, fake=True)
        except Exception:
            break
        inputs = halved
    return inputs
