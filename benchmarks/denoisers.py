"""Whole denoisers on this machine's processor: dense, converted and fused, and where their time goes.

    OMP_NUM_THREADS=2 python benchmarks/denoisers.py [NAME ...] [--batch 1 8] [--seconds 1]

times each of DENOISERS with fresh weights under POLICIES, in turns within one run, and writes
benchmarks/results/denoisers-cpu.json, row by row; a row that is there is not measured again (--again measures it).
`performance.py --page-only` writes the page.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import places
import torch
import torch.nn.functional as F
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[1]))

import prismify
from prismify.bench.timing import side_by_side
from prismify.checkpoint import open_source
from prismify.facts import parameter_count
from prismify.fresh.architectures import architecture
from prismify.layers import LAYERS, own_operators
from prismify.training.engine.begin import hardware

CPU = torch.device("cpu")
POLICIES: dict[str, prismify.Policy] = {
    "paper": prismify.Policy(),
    "volumes": prismify.Policy(name="volumes"),
    "volumes --feed-forward": prismify.Policy(name="volumes", feed_forward=True),
}


@dataclass(frozen=True)
class Denoiser:
    """What is timed.

    Args:
        make: with fresh weights.
        inputs: of a batch size, as keywords.
        shape: of one picture or latent, in words.
    """

    make: Callable[[], nn.Module]
    inputs: Callable[[int], dict[str, Any]]
    shape: str


def _of(source: str, **arguments: Any) -> nn.Module:
    opened = open_source(source, arguments=arguments, trust_code=True)
    return opened.build()  # type: ignore[union-attr,return-value]


def _config(name: str) -> nn.Module:
    import diffusers

    content = json.loads((places.ROOT / "examples" / "configs" / name / "config.json").read_text())
    made: nn.Module = getattr(diffusers, content["_class_name"]).from_config(content)
    return made


def _new(name: str, width: int, channels: int, size: int) -> nn.Module:
    made = architecture(name)
    return _of(made.reference, **made.arguments(width, channels, size, 0))


def _times(batch: int) -> Tensor:
    return torch.full((batch,), 500)


DENOISERS: dict[str, Denoiser] = {
    "MNIST DDPM": Denoiser(
        lambda: _of(f"{places.ROOT / 'tests' / 'diffusion' / 'nets' / 'mnist_ddpm.py'}:make"),
        lambda b: {"x": torch.randn(b, 1, 28, 28), "t": _times(b)},
        "1×28×28",
    ),
    "SinDDM": Denoiser(
        lambda: _new("sinddm", 160, 3, 96),
        lambda b: {"x": torch.randn(b, 3, 96, 128), "time": _times(b), "scale": torch.zeros(b)},
        "3×96×128",
    ),
    "ldm-unet, C = 256": Denoiser(
        lambda: _new("ldm-unet", 256, 3, 32),
        lambda b: {"sample": torch.randn(b, 3, 32, 32), "timestep": _times(b)},
        "3×32×32",
    ),
    "SD 1.5's UNet": Denoiser(
        lambda: _config("sd15-unet"),
        lambda b: {
            "sample": torch.randn(b, 4, 64, 64),
            "timestep": _times(b),
            "encoder_hidden_states": torch.randn(b, 77, 768),
        },
        "4×64×64",
    ),
    "DiT-XL/2": Denoiser(
        lambda: _config("dit-xl-2"),
        lambda b: {
            "hidden_states": torch.randn(b, 4, 32, 32),
            "timestep": _times(b),
            "class_labels": torch.zeros(b, dtype=torch.long),
        },
        "4×32×32",
    ),
}


def passes(model: nn.Module, inputs: dict[str, Any]) -> dict[str, Callable[[], None]]:
    """An inference pass, and one with the gradients of all weights."""
    weights = [p for p in model.parameters() if p.requires_grad]

    def infer() -> None:
        with torch.inference_mode():
            model(**inputs)

    def learn() -> None:
        torch.autograd.grad(first(model(**inputs)).square().mean(), weights, allow_unused=True)

    return {"forward": infer, "forward and backward": learn}


def first(output: Any) -> Tensor:
    found: Tensor = output if isinstance(output, Tensor) else output[0]
    return found


def kind_of(module: nn.Module) -> str | None:
    """What a layer's time is counted as; None for what is made of others."""
    if isinstance(module, (*LAYERS, *own_operators().values())):
        return "operators"
    if isinstance(module, nn.modules.conv._ConvNd):
        return "convolution"
    if isinstance(module, nn.Linear):
        return "linear"
    if "Norm" in type(module).__name__ and not list(module.children()):
        return "norm"
    return None


@contextmanager
def counted(model: nn.Module) -> Iterator[dict[str, float]]:
    """Seconds by kind of layer, and of attention's product, of what runs meanwhile."""
    spent: dict[str, float] = defaultdict(float)
    begun: list[float] = []
    hooks = []
    inside = {id(m) for module in model.modules() if kind_of(module) for m in list(module.modules())[1:]}
    for module in model.modules():
        kind = kind_of(module)
        if kind is None or id(module) in inside:
            continue

        def after(_: nn.Module, __: Any, ___: Any, kind: str = kind) -> None:
            spent[kind] += time.perf_counter() - begun.pop()

        hooks.append(module.register_forward_pre_hook(lambda _, __: begun.append(time.perf_counter())))
        hooks.append(module.register_forward_hook(after))
    product = F.scaled_dot_product_attention

    def attend(*args: Any, **kwargs: Any) -> Tensor:
        start = time.perf_counter()
        made = product(*args, **kwargs)
        spent["attention product"] += time.perf_counter() - start
        return made

    F.scaled_dot_product_attention = attend
    try:
        yield spent
    finally:
        F.scaled_dot_product_attention = product
        for hook in hooks:
            hook.remove()


def shares(model: nn.Module, inputs: dict[str, Any], passes: int = 3) -> dict[str, float]:
    """The part of a forward pass that each kind of layer takes; the median of some passes, and the rest."""
    rows = []
    with torch.inference_mode():
        model(**inputs)
        for _ in range(passes):
            with counted(model) as spent:
                begun = time.perf_counter()
                model(**inputs)
                whole = time.perf_counter() - begun
            rows.append({kind: seconds / whole for kind, seconds in spent.items()})
    found = {kind: statistics.median(row.get(kind, 0.0) for row in rows) for kind in {k for row in rows for k in row}}
    return {**found, "rest": 1 - sum(found.values())}


def measure(name: str, policy: str, batch: int, seconds: float) -> dict[str, Any]:
    """A denoiser and its conversion, at one batch size."""
    torch.manual_seed(0)
    one = DENOISERS[name]
    dense = one.make().eval()
    inputs = one.inputs(batch)
    converted = prismify.convert(dense, kwargs=one.inputs(1), policy=POLICIES[policy]).eval()
    models = {"dense": dense, "converted": converted}
    try:
        models["fused"] = prismify.fuse(prismify.convert(dense, kwargs=one.inputs(1), policy=POLICIES[policy]).eval())
    except prismify.PrismifyError as error:
        print(f"{name} is not fused: {error}", flush=True)
    calls = {key: passes(model, inputs) for key, model in models.items()}
    row: dict[str, Any] = {
        "name": name,
        "shape": one.shape,
        "policy": policy,
        "batch": batch,
        "seed": 0,
        "parameters": {key: parameter_count(model) for key, model in models.items()},
        "date": places.today(),
        "hardware": hardware(CPU),
        "torch": torch.__version__,
    }
    for title in ("forward", "forward and backward"):
        row[title] = side_by_side({key: call[title] for key, call in calls.items()}, "dense", CPU, seconds)
    row["shares"] = {key: shares(models[key], inputs) for key in ("dense", "converted")}
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", default=list(DENOISERS), choices=[*DENOISERS], metavar="NAME")
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--policy", nargs="+", default=list(POLICIES), choices=list(POLICIES))
    parser.add_argument("--seconds", type=float, default=1.0, help="for each model and pass, about")
    parser.add_argument("--again", action="store_true", help="measure what is there already")
    given = parser.parse_args()
    rows = json.loads(places.DENOISERS.read_text()) if places.DENOISERS.is_file() else []
    for name in given.names:
        for batch in given.batch:
            for policy in given.policy:
                key = (name, policy, batch)
                if any((r["name"], r["policy"], r["batch"]) == key for r in rows) and not given.again:
                    continue
                row = measure(name, policy, batch, given.seconds)
                rows = [r for r in rows if (r["name"], r["policy"], r["batch"]) != key] + [row]
                places.DENOISERS.write_text(json.dumps(rows, indent=1) + "\n")
                times = {title: row[title] for title in ("forward", "forward and backward")}
                told = "; ".join(
                    f"{title}: "
                    + ", ".join(f"{k} {v['median_ms']:.1f} ms ({v['times_dense']:.2f}x)" for k, v in t.items())
                    for title, t in times.items()
                )
                print(f"{name}, {policy}, batch {batch}: {told}", flush=True)
                gc.collect()


if __name__ == "__main__":
    main()
