"""A model and its conversion on the same inputs, and each kind of layer against what took its place."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import one_line
from ..generators import kept_generators
from ..graph import Capture, ExampleInputs
from ..graph.inputs import tensors_in
from ..plan import Plan
from ..rewrite import copied, fuse
from .timing import compare, device_name, side_by_side

#: Kinds of passes: name -> whether gradients are computed.
PASSES = {"forward": False, "forward and backward": True}


def latency(
    original: nn.Module, converted: nn.Module, plan: Plan, capture: Capture, device: torch.device, seconds: float = 1.0
) -> dict[str, Any] | None:
    """What a conversion does to the time of a pass, as plain data for a report; None where nothing can be run.

    Returns:
        what `bench_models` returns of the first captured method, with `layers` as from `bench_layers`.
    """
    entry = next((e for e in capture.entries if e.inputs is not None), None)
    if entry is None or entry.inputs is None:
        return None
    result = bench_models(original, converted, entry.inputs, device, seconds, method=entry.method)
    return {**result, "layers": bench_layers(original, converted, plan, device, seconds / 10)}


@kept_generators()
def bench_models(
    original: nn.Module,
    converted: nn.Module,
    inputs: ExampleInputs,
    device: torch.device,
    seconds: float = 2.0,
    *,
    method: str = "forward",
) -> dict[str, Any]:
    """An original, its conversion as it is, and its conversion under `prismify.fuse`, on the same inputs.

    Returns:
        `device`, `threads`, `method`, `inputs`; for "forward" and for "forward and backward" a row for each model
        with its timing, how many times faster than the original it is (`times_original`, the median of the
        rounds' ratios) and the peak of tensor memory in bytes; and `not_fused`, why there is no row "fused".
    """
    models = {"original": original.to(device), "converted": converted.to(device)}
    fused, not_fused = _fused(converted, method)
    if fused is not None:
        models["fused"] = fused
    inputs = inputs.map(lambda t: t.to(device))
    result: dict[str, Any] = {
        "device": device_name(device),
        "threads": torch.get_num_threads(),
        "method": method,
        "inputs": inputs.describe(),
        "not_fused": not_fused,
    }
    for title, backward in PASSES.items():
        calls = {name: one_pass(model, inputs, backward, method) for name, model in models.items()}
        result[title] = side_by_side(calls, "original", device, seconds)
    return result


@kept_generators()
def bench_layers(
    original: nn.Module, converted: nn.Module, plan: Plan, device: torch.device, seconds: float = 0.1
) -> list[dict[str, Any]]:
    """A forward pass of each kind of replaced layer, before and after, the slowest gain first.

    Layers that are alike, at inputs of the same shape, are measured once.

    Returns:
        a dict a kind: `names`, `before` and `after` in words, `input_shape`, `before_ms`, `after_ms` (medians)
        and `faster`, how many times.
    """
    old, new = dict(original.named_modules()), dict(converted.named_modules())
    alike: dict[tuple[str, str, tuple[int, ...]], list[str]] = defaultdict(list)
    for row in plan.replaced:
        if row.input_shape is not None and row.name in old and row.name in new:
            alike[str(old[row.name]), str(new[row.name]), tuple(row.input_shape)].append(row.name)
    rows = []
    for (before, after, shape), names in alike.items():
        weight = next(new[names[0]].parameters())
        inputs = ExampleInputs((torch.randn(shape, device=device, dtype=weight.dtype),))
        calls = {key: one_pass(layers[names[0]].to(device), inputs) for key, layers in (("b", old), ("a", new))}
        try:
            timings = compare(calls, device, seconds)
        except Exception:  # a layer that takes more than one tensor is measured with its model only
            continue
        rows.append(
            {
                "names": names,
                "before": before,
                "after": after,
                "input_shape": list(shape),
                "before_ms": timings["b"].median_ms,
                "after_ms": timings["a"].median_ms,
                "faster": timings["a"].times_faster(timings["b"]),
            }
        )
    return sorted(rows, key=lambda row: float(str(row["faster"])))


def one_pass(
    model: nn.Module, inputs: ExampleInputs, backward: bool = False, method: str = "forward"
) -> Callable[[], Any]:
    """One inference pass, or one training pass with gradients for the inputs and every weight."""
    # A compiled module is entered by calling it.
    run = model if method == "forward" else getattr(model, method)
    if not backward:

        def infer() -> None:
            with torch.inference_mode():
                run(*inputs.args, **inputs.kwargs)

        return infer
    wanted = inputs.map(lambda t: t.detach().clone().requires_grad_() if t.is_floating_point() else t)
    leaves: list[Tensor] = [p for p in model.parameters() if p.requires_grad]
    leaves += [t for _, t in wanted.tensors() if t.requires_grad]

    def train() -> None:
        outputs = [t for t in tensors_in(run(*wanted.args, **wanted.kwargs)) if t.requires_grad]
        torch.autograd.grad(outputs[:1], leaves, [torch.ones_like(outputs[0])], allow_unused=True)

    return train


def _fused(converted: nn.Module, method: str) -> tuple[nn.Module | None, str | None]:
    """A copy of a model that shares its weights and runs fused; or why there is none."""
    shared: dict[int, Any] = {id(t): t for t in (*converted.parameters(), *converted.buffers())}
    try:
        return fuse(copied(converted, {}, shared)), None
    except Exception as error:
        return None, one_line(error)
