"""What is checked after a conversion: the output shapes, and that gradients reach every new weight."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ..errors import ConversionError, one_line
from ..graph import Capture, EntryPoint, ExampleInputs
from ..graph.chance import recorded
from ..graph.dataflow.flow import output_nodes, shape
from ..graph.inputs import tensors_in
from ..graph.isolation import cloned_tensors, device_of, swapped_tensors, undisturbed

#: Images larger than this are halved for the gradient check, which asks whether gradients arrive, not how fast.
_LARGEST_SIDE = 32
_HALF = (torch.float16, torch.bfloat16)


def verify(
    converted: nn.Module, capture: Capture, new: Mapping[str, nn.Module], originals: Mapping[int, str] | None = None
) -> None:
    """Compare output shapes with the original's, and run a backward pass that must reach every new weight.

    Models on `meta` have no values, so only their shapes are compared; a model that was not captured is
    not run at all. The check runs on copies of the weights.

    Args:
        originals: names of tensors that the converted model must not use any more, by their ids.

    Raises:
        ConversionError: the model no longer runs, an output shape changed, a gradient is missing or not finite, or
            what was replaced, or is another model's, still runs.
    """
    originals = originals or {}
    entries = [e for e in capture.entries if e.inputs is not None]
    has_values = not any(t.is_meta for t in (*converted.parameters(), *converted.buffers()))
    for entry in entries:
        fake = entry.technique == "recorder on fake tensors"
        if fake or has_values:
            _check_shapes(converted, entry, fake, originals)
    if not has_values:
        return
    missing = set(new)
    for entry in entries:
        if missing:
            missing -= _check_gradients(converted, entry, new)
    if capture.skipped:  # what only an uncaptured method runs cannot be judged
        missing &= {node.meta.get("module") for _, graph in capture.graphs for node in graph.nodes}
    if missing and entries:
        names = sorted(missing)
        first, rest = names[0], "".join(f" --exclude {name!r}" for name in names)
        others = f" (and {len(names) - 1} more: {', '.join(names[1:])})" if len(names) > 1 else ""
        raise ConversionError(
            f"{first}: no gradient reaches its new weight, so it cannot be trained{others}; keep it with{rest}"
        )


def blame(original: nn.Module, capture: Capture) -> str | None:
    """What the original itself does that no converted model can be checked by; None where nothing is found.

    Its results are not finite on the example inputs, differ in shape from call to call, or cannot be differentiated.
    """
    if any(t.is_meta for t in (*original.parameters(), *original.buffers())):
        return None
    for entry in capture.entries:
        if entry.inputs is None:
            continue
        try:
            graphs = [recorded(original, entry.method, entry.inputs, fake=False, seed=seed) for seed in range(3)]
        except Exception:
            return None
        runs = {(*(n.meta.get("module") for n in g.nodes), *map(shape, output_nodes(g))) for g in graphs}
        if len(runs) > 1:
            return (
                f"the original chooses at random what it runs in {entry.method}, so a conversion cannot be checked: "
                "make it choose by its arguments, or convert with check=False"
            )
        if not _is_finite(original, entry):
            return (
                f"the original's own result is not finite in {entry.method} on the example inputs: give inputs that it "
                "takes (args=..., --input), or convert with check=False"
            )
        own = {name: module for name, module in original.named_modules() if module._parameters}
        failed = ""
        for training in (False, True):
            try:
                gradients = _gradients(original, entry, own, False, training)
            except Exception as error:
                failed = failed or one_line(error)
                continue
            found = [g for g in (gradients or {}).values() if g is not None]
            if any(not bool(torch.isfinite(g).all()) for g in found):
                return (
                    f"the original's own gradients are not finite in {entry.method} on the example inputs: give inputs "
                    "that it takes (args=..., --input), or convert with check=False"
                )
            break
        else:
            return f"the original itself cannot be differentiated in {entry.method}: {failed}; convert with check=False"
    return None


def _is_finite(model: nn.Module, entry: EntryPoint) -> bool:
    assert entry.inputs is not None
    inputs = entry.inputs.map(lambda t: t.to(device_of(model), copy=True))
    with undisturbed(model), cloned_tensors(model), torch.no_grad():
        output = getattr(model, entry.method)(*inputs.args, **inputs.kwargs)
    return all(bool(torch.isfinite(t).all()) for t in tensors_in(output) if t.is_floating_point())


def _check_shapes(converted: nn.Module, entry: EntryPoint, fake: bool, originals: Mapping[int, str]) -> None:
    assert entry.inputs is not None
    try:
        graph = recorded(converted, entry.method, entry.inputs, fake=fake)
    except Exception as error:
        raise ConversionError(f"the converted model fails in {entry.method}: {one_line(error)}") from error
    used = [originals[i] for node in graph.nodes if (i := node.meta.get("identity")) in originals]
    if used:
        raise ConversionError(
            f"{entry.method} of the converted model still runs the original's {used[0]}, which it reaches by a way "
            "that conversion cannot follow (a global, a class, a compiled function); keep it with --exclude, or, "
            "where a copy was asked for, convert in place (convert_)"
        )
    shapes = tuple(shape(node) for node in output_nodes(graph))
    if not _alike(shapes, entry.output_shapes, depends_on_values=not fake):
        raise ConversionError(
            f"{entry.method} returned {list(entry.output_shapes)} and would return {list(shapes)} after conversion"
        )


def _alike(
    shapes: tuple[tuple[int, ...], ...], wanted: tuple[tuple[int, ...], ...], *, depends_on_values: bool
) -> bool:
    """Whether results have the shapes they had; a model that reads values may choose by them the lengths of axes.

    Of a result with several axes, one at least is the same.
    """
    if shapes == wanted or not depends_on_values:
        return shapes == wanted
    return len(shapes) == len(wanted) and all(
        len(a) == len(b) and (len(a) < 2 or any(m == n for m, n in zip(a, b, strict=True)))
        for a, b in zip(shapes, wanted, strict=True)
    )


def _check_gradients(model: nn.Module, entry: EntryPoint, new: Mapping[str, nn.Module]) -> set[str]:
    """The new layers whose weights got finite gradients from this entry point."""
    # Half precision is judged in float32, where an untrained network does not overflow, unless the model
    # insists on its own type.
    half = any(p.dtype in _HALF for p in model.parameters())
    # What cannot be differentiated in evaluation, or gives no gradient there (in-place code, a quantiser that passes
    # gradients straight through in training alone), is judged as training runs it.
    attempts = [(single, training) for training in (False, True) for single in ((True, False) if half else (False,))]
    reached: set[str] = set()
    failed: Exception | None = None
    ran = False
    for in_single, training in attempts:
        try:
            gradients = _gradients(model, entry, new, in_single, training)
        except Exception as error:
            failed = failed or error
            continue
        ran = True
        if gradients is None:
            reached |= _used(model, entry, new)
            continue
        for name, module in new.items():
            own = [gradients[id(p)] for p in module.parameters()]
            if any(g is not None and not bool(torch.isfinite(g).all()) for g in own):
                raise ConversionError(f"{name}: the gradient of its new weight is not finite in {entry.method}")
            if all(g is not None for g in own):
                reached.add(name)
        if reached == set(new):
            break
    if not ran:
        assert failed is not None
        reason = one_line(failed)
        raise ConversionError(f"a backward pass of the converted model fails in {entry.method}: {reason}") from failed
    return reached


def _gradients(
    model: nn.Module, entry: EntryPoint, new: Mapping[str, nn.Module], in_single: bool, training: bool = False
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
    with undisturbed(model, training=training), swapped_tensors(model, stand_in), torch.enable_grad():
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
    graph = recorded(model, entry.method, entry.inputs, fake=False)
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
            recorded(model, entry.method, halved, fake=True)
        except Exception:
            break
        inputs = halved
    return inputs
