"""This checkout beside an earlier one, in turns within one run: what the work between them made faster, or slower.

    OMP_NUM_THREADS=2 python benchmarks/since.py COMMIT [--only WORD]

checks COMMIT out beside this one, starts a process for each, and lets them run each of CALLS in turn: a load from
elsewhere slows both. Freed memory stays with a process, and there are several pairs of them: where a process's memory
happens to lie decides some ten percent. Large maps are timed as on a processor with AVX2 and nothing later, too. First
use is timed in processes with no machine code kept; memory is what the tensors of a pass take at the peak. Writes
benchmarks/results/since-cpu.json; `performance.py --page-only` writes the page.
"""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import places
import torch
from first_use import first_use

ROOT = places.ROOT


def module_at(path: str) -> Any:
    """A module of this checkout, whichever checkout's code a process runs."""
    name = Path(path).stem
    described = importlib.util.spec_from_file_location(name, ROOT / path)
    assert described is not None
    assert described.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(described)
    described.loader.exec_module(module)
    return module


older_processor = module_at("tests/older_processor.py")
#: Both checkouts are measured with this one's ruler.
timing = module_at("prismify/bench/timing.py")

#: A measured burst of calls takes about so many seconds.
BURST = 0.02
#: Before it, for the other process's threads, which spin for a while after their work.
PAUSE = 0.03
PASSES = {False: "forward", True: "forward and backward"}

Make = Callable[[bool], Callable[[], object]]


def operator(*shape: int, dtype: torch.dtype = torch.float32) -> Make:
    """The operator on maps, or on tokens where a shape has three axes."""

    def make(backward: bool) -> Callable[[], object]:
        from prismify.kernels import deep_prism, prism

        u = torch.randn(shape).to(dtype).requires_grad_(backward)
        size = (3,) if len(shape) == 3 else (3, 3, 3)
        weight, bias = torch.randn(size).to(dtype).requires_grad_(backward), torch.zeros(1, dtype=dtype)
        call = (
            (lambda: prism(u, weight, bias)) if len(shape) == 3 else lambda: deep_prism(u, weight, bias, padding=(1, 1))
        )
        if not backward:
            return call
        g = torch.randn(shape).to(dtype)
        return lambda: torch.autograd.grad(call(), (u, weight), g)

    return make


def block(*shape: int, fused: bool) -> Make:
    """GroupNorm, SiLU, the operator and a residual sum as a module, fused or not."""

    def make(backward: bool) -> Callable[[], object]:
        import prismify
        from prismify.layers import DeepPrism

        class Block(torch.nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.norm = torch.nn.GroupNorm(32, shape[1])
                self.conv = DeepPrism(shape[1], shape[1], padding=1)

            def forward(self, x: torch.Tensor) -> torch.Tensor:
                return self.conv(torch.nn.functional.silu(self.norm(x))) + x

        module: torch.nn.Module = Block()
        if fused:
            prismify.fuse(module)
        x = torch.randn(shape).requires_grad_(backward)
        if not backward:
            return lambda: module(x)
        g, asked = torch.randn(shape), [x, *module.parameters()]
        return lambda: torch.autograd.grad(module(x), asked, g)

    return make


def unet(batch: int, fused: bool) -> Make:
    """The paper's denoiser of latents at C = 256, by policy volumes."""

    def make(backward: bool) -> Callable[[], object]:
        import prismify
        from prismify.checkpoint import open_source
        from prismify.fresh.architectures import architecture

        made = architecture("ldm-unet")
        source: Any = open_source(made.reference, arguments=made.arguments(256, 3, 32, 0), trust_code=True)
        model = prismify.convert(source.build(), policy=prismify.Policy(name="volumes"))
        if fused:
            prismify.fuse(model)
        inputs = {"sample": torch.randn(batch, 3, 32, 32), "timestep": torch.full((batch,), 500)}
        if not backward:
            return lambda: model(**inputs)
        weights = list(model.parameters())
        return lambda: torch.autograd.grad(model(**inputs).sample.sum(), weights)

    return make


#: What is called -> how it is made.
CALLS: dict[str, Make] = {
    **{
        f"operator, {'×'.join(map(str, shape))}": operator(*shape)
        for shape in [
            (1, 32, 8, 8), (8, 32, 8, 8), (1, 32, 16, 16), (1, 64, 8, 8), (1, 128, 8, 8), (8, 64, 16, 16),
            (8, 256, 8, 8), (1, 256, 16, 16), (8, 64, 32, 32), (8, 256, 32, 32), (4, 256, 64, 64), (1, 256, 128, 128),
        ]
    },
    "operator, 8×256×32×32, bfloat16": operator(8, 256, 32, 32, dtype=torch.bfloat16),
    **{
        f"tokens, {'×'.join(map(str, shape))}": operator(*shape)
        for shape in [(1, 256, 512), (8, 1024, 256), (2, 4096, 320)]
    },
    **{
        f"{'fused' if fused else 'plain'} block, {'×'.join(map(str, shape))}": block(*shape, fused=fused)
        for shape in [(1, 64, 16, 16), (8, 256, 8, 8), (8, 64, 32, 32), (8, 256, 32, 32), (1, 256, 128, 128)]
        for fused in (False, True)
    },
    **{
        f"ldm-unet, C = 256, batch {batch}{', fused' if fused else ''}": unet(batch, fused)
        for batch in (1, 8)
        for fused in (False, True)
    },
}  # fmt: skip


#: Also timed as on a processor with AVX2 and nothing later.
OLDER = ("operator, 8×256×32×32", "operator, 4×256×64×64", "operator, 1×256×128×128")


def work() -> None:
    """A process's side: a line names a call, whether to go backward, and what of it is asked for.

    The answer is milliseconds a call, or the most bytes that its tensors take at once.
    """
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no answer
    calls: dict[str, tuple[Callable[[], object], int]] = {}
    for line in sys.stdin:
        name, backward, asked_for = json.loads(line)
        with torch.set_grad_enabled(backward):
            if asked_for == "bytes":
                torch.manual_seed(0)
                call = CALLS[name](backward)
                for _ in range(3):
                    call()
                answers.write(f"{timing.peak_bytes(call, torch.device('cpu'))}\n")
                answers.flush()
                continue
            if line not in calls:
                calls.clear()
                torch._dynamo.reset()
                torch.manual_seed(0)
                call = CALLS[name](backward)
                for _ in range(3):
                    call()
                begun = time.perf_counter()
                call()
                calls[line] = call, max(1, min(500, int(BURST / (time.perf_counter() - begun))))
            call, repeats = calls[line]
            time.sleep(PAUSE)
            call()
            begun = time.perf_counter()
            for _ in range(repeats):
                call()
        answers.write(f"{1e3 * (time.perf_counter() - begun) / repeats}\n")
        answers.flush()


@contextmanager
def worker(checkout: Path, older: bool = False) -> Any:
    """A function that asks a process which runs a checkout's code, as on an older processor or not."""
    code = (
        f"import sys; sys.path[:0] = [{str(checkout)!r}, {str(Path(__file__).parent)!r}]; import prismify, since; "
        f"assert prismify.__file__.startswith({str(checkout)!r}); since.work()"
    )
    kept = {"MALLOC_MMAP_THRESHOLD_": str(1 << 30), "MALLOC_TRIM_THRESHOLD_": str(1 << 32), "MALLOC_ARENA_MAX": "1"}
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1,
        env={**(older_processor.environment() if older else os.environ), **kept},
    ) as process:  # fmt: skip
        asked, answered = process.stdin, process.stdout
        assert asked is not None
        assert answered is not None

        def ask(name: str, backward: bool, asked_for: str = "milliseconds") -> float:
            asked.write(json.dumps([name, backward, asked_for]) + "\n")
            return float(answered.readline())

        yield ask
        asked.close()


def take_turns(name: str, backward: bool, before: Any, now: Any, rounds: int) -> list[tuple[float, float]]:
    """Milliseconds a call of both checkouts, round by round."""
    for ask in (before, now):
        ask(name, backward)
    return [(before(name, backward), now(name, backward)) for _ in range(rounds)]


def add_rounds(
    times: dict[tuple[str, bool, bool], list[tuple[float, float]]],
    earlier: Path,
    names: list[str],
    older: bool,
    rounds: int,
) -> None:
    """The rounds of one pair of processes, by (name, whether backward, whether as on an older processor)."""
    if not names:
        return
    with worker(earlier, older) as before, worker(ROOT, older) as now:
        for name, backward in itertools.product(names, (False, True)):
            found = take_turns(name, backward, before, now, rounds)
            times.setdefault((name, backward, older), []).extend(found)


def row_of(name: str, backward: bool, older: bool, times: list[tuple[float, float]]) -> dict[str, Any]:
    """Medians of both, and the ratio's median and quartiles over the rounds."""
    low, middle, high = statistics.quantiles([before / now for before, now in times], n=4, method="inclusive")
    return {
        "name": name,
        "pass": PASSES[backward],
        "processor": "AVX2" if older else "this",
        "before_ms": statistics.median(before for before, _ in times),
        "now_ms": statistics.median(now for _, now in times),
        "faster": middle,
        "quartiles": [low, high],
    }


def memory_rows(earlier: Path, names: list[str]) -> list[dict[str, Any]]:
    """What the tensors of a pass take at the peak, in MiB, by the code of both checkouts."""
    rows = []
    with worker(earlier) as before, worker(ROOT) as now:
        for name, backward in itertools.product(names, (False, True)):
            mib = {when: ask(name, backward, "bytes") / 2**20 for when, ask in (("before", before), ("now", now))}
            rows.append({"name": name, "pass": PASSES[backward], "mib": mib})
    return rows


def new_to_both(earlier: Path) -> dict[str, dict[str, float]]:
    """First use of both checkouts, where nothing was compiled before."""
    found = {}
    for name, checkout in (("before", earlier), ("now", ROOT)):
        with tempfile.TemporaryDirectory() as kept:
            found[name] = first_use(checkout, kept)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("commit", metavar="COMMIT")
    parser.add_argument("--rounds", type=int, default=5, help="of each pair of processes")
    parser.add_argument("--pairs", type=int, default=5, help="of processes, one after the other")
    parser.add_argument("--only", metavar="WORD", help="calls whose name has it")
    arguments = parser.parse_args()
    commit = subprocess.check_output(["git", "rev-parse", "--short", arguments.commit], cwd=ROOT, text=True).strip()
    names = [name for name in CALLS if (arguments.only or "") in name]
    with tempfile.TemporaryDirectory() as folder:
        earlier = Path(folder) / "earlier"
        subprocess.run(["git", "worktree", "add", "--detach", "-q", str(earlier), commit], cwd=ROOT, check=True)
        try:
            measured(earlier, commit, names, arguments.rounds, arguments.pairs)
        finally:
            subprocess.run(["git", "worktree", "remove", "--force", str(earlier)], cwd=ROOT, check=True)


def measured(earlier: Path, commit: str, names: list[str], rounds: int, pairs: int) -> None:
    """Write down what both checkouts take."""
    report: dict[str, Any] = {
        "date": places.today(), "before": commit, "threads": torch.get_num_threads(), "torch": torch.__version__,
        "machine": places.processor(), "seed": 0, "rows": [], "memory": [],
    }  # fmt: skip
    if len(names) < len(CALLS) and places.SINCE.is_file():
        kept = json.loads(places.SINCE.read_text())
        if all(kept[name] == report[name] for name in ("before", "threads", "torch", "machine")):
            others = {part: [row for row in kept[part] if row["name"] not in names] for part in ("rows", "memory")}
            report = {**kept, "date": report["date"], **others}
    if "first_use" not in report:
        report["first_use"] = new_to_both(earlier)
    times: dict[tuple[str, bool, bool], list[tuple[float, float]]] = {}
    for _ in range(pairs):
        add_rounds(times, earlier, names, False, rounds)
        add_rounds(times, earlier, [name for name in names if name in OLDER], True, rounds)
    report["rows"] += [row_of(*one, found) for one, found in times.items()]
    places.SINCE.write_text(json.dumps(report, indent=1) + "\n")
    report["memory"] += memory_rows(earlier, [name for name in names if name.startswith("ldm-unet")])
    places.SINCE.write_text(json.dumps(report, indent=1) + "\n")
    for row in report["rows"]:
        title = f"{row['name']}, {row['pass']}, {row['processor']}"
        print(f"{title:62} {row['before_ms']:9.4g} -> {row['now_ms']:9.4g} ms  {row['faster']:.2f}x")


if __name__ == "__main__":
    main()
