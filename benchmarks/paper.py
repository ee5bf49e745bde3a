"""The paper's Table 2, Table 4 and Figure 1 on this machine: what was measured and trained, kept in the repository.

    python benchmarks/paper.py table2
    python benchmarks/paper.py rates --data TRAIN --test TEST --runs RUNS [--jobs 2]
    python benchmarks/paper.py points --data TRAIN --test TEST --lpips ALEX --features RESNET --runs RUNS
        [--seeds 2] [--jobs 2] [--stop-after MINUTES]

`table2` writes benchmarks/results/paper-table2.json. `rates` trains one method of each family beside DeepPrism at four
learning rates, for two minutes each, and writes paper-rates-cpu.json: the best are in `prismify/paper/budgets.py`.
`points` trains what `prismify reproduce figure1` does, --jobs points side by side with the threads of
OMP_NUM_THREADS, and keeps each in paper-points-cpu.json; what lies there is not made again, so that an evening may make
some points and the next one the rest. All write the page.
"""

from __future__ import annotations

import argparse
import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import places
import results_page
import torch
from command import run, run_in

from prismify.paper.budgets import BUDGETS
from prismify.paper.methods import Method, methods
from prismify.training.engine.begin import hardware

LAPTOP = BUDGETS["laptop"]
#: What the rate of a family is chosen by.
TUNED = (
    "group convolution, C = 64, 32 groups",
    "depthwise separable, C = 64",
    "low rank, C = 64, rank 1",
    "narrow, C = 8",
    "narrow, C = 16",
)
RATES = (1e-3, 4e-3, 1.2e-2, 2.5e-2)
_KEEPING = threading.Lock()


def table_2() -> None:
    """Measure Table 2, and keep it with where it was measured."""
    facts = {"date": places.today(), "hardware": hardware(torch.device("cpu")), "seed": 0}
    made = {"command": "prismify reproduce table2 --json", **facts, **json.loads(run("reproduce", "table2", "--json"))}
    places.TABLE_2.write_text(json.dumps(made, indent=1) + "\n")


def rates(arguments: argparse.Namespace) -> None:
    """Train TUNED at all RATES for two minutes, and keep what each reached; rows that are kept are not made again."""
    folder: Path = arguments.runs.resolve()
    words = [*linked(folder, arguments), "--seeds", "1", "--minutes", "2", "--count", "2000"]
    rows = json.loads(places.RATES.read_text()) if places.RATES.is_file() else []
    made = {(row["method"], row["rate"]) for row in rows}

    def make(method: str, rate: float) -> None:
        output = Path("rates") / f"{rate:g}"
        run_in(
            folder, "reproduce", "figure1", *words, "--only", method, "--set", f"train.learning_rate={rate:g}",
            "-o", str(output),
        )  # fmt: skip
        found = (json.loads(file.read_text()) for file in (folder / output / "points").glob("*.json"))
        (point,) = (p for p in found if f"{p['family']}, {p['name']}" == method)
        kept = ("seed", "images", "parameters", "steps", "hardware", "versions", "date")
        row = {"method": method, "rate": rate, "minutes": 2, "psnr": point["scores"]["PSNR"]["mean"]}
        with _KEEPING:
            rows.append({**row, **{key: point[key] for key in kept}})
            places.RATES.write_text(json.dumps(rows, indent=1) + "\n")
        print(f"{method}, rate {rate:g}: {point['steps']} steps, {row['psnr']:.2f} dB", flush=True)

    with ThreadPoolExecutor(arguments.jobs) as side_by_side:
        wanted = [(m, r) for m in TUNED for r in RATES if (m, r) not in made]
        list(side_by_side.map(lambda pair: make(*pair), wanted))


def points(arguments: argparse.Namespace) -> None:
    """Make the points that are not there yet, as long as there is time, and keep all."""
    folder: Path = arguments.runs.resolve()
    restore(folder)
    words = [*linked(folder, arguments), "-o", "points"]
    began = time.monotonic()

    def make(seed: int, method: Method) -> None:
        late = (time.monotonic() - began) / 60 > arguments.stop_after
        if not late:
            only = f"{method.family}, {method.name}"
            print(run_in(folder, "reproduce", "figure1", *words, "--seeds", str(seed + 1), "--only", only), flush=True)
        collect(folder)

    for seed in range(arguments.seeds):  # a method's second seed needs its first
        with ThreadPoolExecutor(arguments.jobs) as side_by_side:
            list(side_by_side.map(lambda method, seed=seed: make(seed, method), methods(LAPTOP)))


def linked(folder: Path, arguments: argparse.Namespace) -> list[str]:
    """What every call is told; files under names that are the same on every machine."""
    words = []
    for option in ("data", "test", "lpips", "features"):
        if getattr(arguments, option) is None:
            continue
        path = Path(getattr(arguments, option)).resolve()
        name = folder / "given" / (option + path.suffix)
        name.parent.mkdir(parents=True, exist_ok=True)
        name.unlink(missing_ok=True)
        name.symlink_to(path)
        words += [f"--{option}", str(name.relative_to(folder))]
    return words


def restore(folder: Path) -> None:
    """Lay out the points that are kept."""
    for point in kept():
        file = folder / "points" / "points" / point.pop("file")
        file.parent.mkdir(parents=True, exist_ok=True)
        if not file.is_file():
            file.write_text(json.dumps(point))


def collect(folder: Path) -> None:
    """Keep all points of the folder; one thread at a time."""
    with _KEEPING:
        _collect(folder)


def _collect(folder: Path) -> None:
    files = sorted((folder / "points" / "points").glob("*.json"))
    rows = [{"file": file.name, **json.loads(file.read_text())} for file in files]
    draft = places.POINTS.with_suffix(".draft")
    draft.write_text(json.dumps(rows, indent=1) + "\n")
    draft.replace(places.POINTS)


def kept() -> list[dict[str, Any]]:
    return json.loads(places.POINTS.read_text()) if places.POINTS.is_file() else []


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["table2", "rates", "points"])
    for name in ("--data", "--test", "--lpips", "--features"):
        parser.add_argument(name)
    parser.add_argument("--runs", type=Path)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--stop-after", type=float, default=float("inf"), metavar="MINUTES", help="begin no more then")
    arguments = parser.parse_args()
    if arguments.what == "table2":
        table_2()
    elif arguments.what == "rates":
        if None in (arguments.data, arguments.test, arguments.runs):
            parser.error("rates takes --data, --test and --runs")
        rates(arguments)
    elif None in (arguments.data, arguments.test, arguments.lpips, arguments.features, arguments.runs):
        parser.error("points takes --data, --test, --lpips, --features and --runs")
    else:
        points(arguments)
    results_page.write()


if __name__ == "__main__":
    main()
