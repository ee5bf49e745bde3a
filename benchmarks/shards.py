"""ImageNet's recipe on WebDataset shards in two processes: throughput, memory, and whether a stopped run goes on.

    python benchmarks/shards.py --data IMAGES ... --vgg LPIPS_VGG --runs RUNS [--width 64] [--steps 12] [--processes 2]

cuts pictures with shorter sides of 256 to 384 from the images, packs them into shards as WebDataset does, and trains
the recipe `imagenet256` (random crops, mirroring, LPIPS, the adversarial term from the middle on) for some steps: once
without a stop, and once stopped by a signal half way and started again. Writes benchmarks/results/shards-cpu.json and
the page: images a second, the memory that all processes held at most, and whether both runs have the same weights.
"""

from __future__ import annotations

import argparse
import io
import json
import random
import signal
import statistics
import subprocess
import tarfile
import time
from pathlib import Path
from typing import Any

import places
import psutil
import results_page
from command import COMMAND
from distil import IMAGES
from PIL import Image
from safetensors import safe_open

SIDES = (256, 384)
PER_SHARD = 64


def pack(sources: list[str], folder: Path, count: int) -> int:
    """So many pictures cut from the images, into shards of PER_SHARD; returns how many shards.

    A WebDataset sample is the files of one name: here 000042.jpg and 000042.cls, the image that it was cut from.
    """
    paths = sorted(p for source in sources for p in Path(source).iterdir() if p.suffix.lower() in IMAGES)
    draw, shards = random.Random(0), 0
    folder.mkdir(parents=True)
    for first in range(0, count, PER_SHARD):
        with tarfile.open(folder / f"train-{shards:06d}.tar", "w") as shard:
            for number in range(first, min(first + PER_SHARD, count)):
                which = draw.randrange(len(paths))
                add(shard, f"{number:06d}.jpg", jpeg(paths[which], draw))
                add(shard, f"{number:06d}.cls", str(which).encode())
        shards += 1
    return shards


def jpeg(path: Path, draw: random.Random) -> bytes:
    """A part of an image with half to all of its sides, scaled to a shorter side within SIDES."""
    picture, share = Image.open(path).convert("RGB"), draw.uniform(0.5, 1)
    width, height = round(picture.width * share), round(picture.height * share)
    left, top = draw.randint(0, picture.width - width), draw.randint(0, picture.height - height)
    scale = draw.randint(*SIDES) / min(width, height)
    size = max(SIDES[0], round(width * scale)), max(SIDES[0], round(height * scale))
    part = picture.crop((left, top, left + width, top + height)).resize(size, Image.Resampling.LANCZOS)
    kept = io.BytesIO()
    part.save(kept, "JPEG", quality=92)
    return kept.getvalue()


def add(shard: tarfile.TarFile, name: str, content: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = len(content)
    shard.addfile(entry, io.BytesIO(content))


def train(folder: Path, sets: list[str], processes: int, stop_at: int | None = None) -> int:
    """Train; returns the most bytes that the command and its processes held at once.

    Args:
        stop_at: send the command SIGTERM as soon as this step was logged.
    """
    words = [word for change in [*sets, f"output={folder}"] for word in ("--set", change)]
    command = [*COMMAND, "train", "imagenet256", "--processes", str(processes), *words]
    most, asked = 0, stop_at is not None
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        whole = psutil.Process(process.pid)
        while process.poll() is None:
            most = max(most, held(whole))
            if stop_at is not None and last_step(folder) >= stop_at:
                process.send_signal(signal.SIGTERM)
                stop_at = None
            time.sleep(0.2)
        said = process.stderr.read() if process.stderr else ""
    if process.returncode != (128 + signal.SIGTERM if asked else 0):
        raise SystemExit(f"{said}ended with {process.returncode}, and was {'' if asked else 'not '}to be stopped")
    return most


def held(process: psutil.Process) -> int:
    """Resident bytes of a process and all that it started; pages that several share count once for each."""
    total = 0
    for one in [process, *process.children(recursive=True)]:
        try:
            total += one.memory_info().rss
        except psutil.NoSuchProcess:
            continue
    return total


def records(folder: Path) -> list[dict[str, Any]]:
    path = folder / "metrics.jsonl"
    lines = path.read_text().splitlines(keepends=True) if path.is_file() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]


def last_step(folder: Path) -> int:
    return max((r["step"] for r in records(folder)), default=0)


def same_weights(one: Path, other: Path) -> bool:
    """Whether two runs ended with the same numbers, to the bit."""
    (first,), (second,) = (list((folder / "model").glob("*.safetensors")) for folder in (one, other))
    with safe_open(first, "pt") as a, safe_open(second, "pt") as b:
        return all(bool((a.get_tensor(key) == b.get_tensor(key)).all()) for key in set(a.keys()) | set(b.keys()))


def changes(arguments: argparse.Namespace, shards: Path) -> list[str]:
    """What is set otherwise than in the recipe: what fits a CPU, and the adversarial term from the middle on."""
    half = arguments.steps // 2
    return [
        f"data.path={shards}",
        f"model.arguments.block_out_channels={[arguments.width] * 4}",
        "model.arguments.norm_num_groups=32",
        f"train.batch_size={arguments.batch}",
        f"train.steps={arguments.steps}",
        "train.mixed_precision=no",
        "train.device=cpu",
        "train.learning_rate=1e-3",
        "train.base_learning_rate=null",
        f"loss.adversarial_start={half}",
        f"loss.lpips={{net: vgg, weights: {arguments.vgg}}}",
        "loss.discriminator.norm=group",
        "data.validation=16",
        "data.workers=1",
        f"log.validate_every={arguments.steps}",
        "log.every=1",
        "log.tensorboard=false",
        f"checkpoint.every={max(1, half // 2)}",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, nargs="+", help="folders of images")
    parser.add_argument("--vgg", required=True, help="weights of LPIPS")
    parser.add_argument("--runs", type=Path, required=True)
    parser.add_argument("--pictures", type=int, default=256)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--processes", type=int, default=2)
    arguments = parser.parse_args()
    runs = arguments.runs.resolve()
    shards = runs / "shards"
    if not shards.is_dir():
        pack(arguments.data, shards, arguments.pictures)
    if (runs / "whole").exists() or (runs / "stopped").exists():
        raise SystemExit(f"{runs} holds runs already: name another folder")
    half = arguments.steps // 2
    sets = changes(arguments, shards)
    most = train(runs / "whole", sets, arguments.processes)
    train(runs / "stopped", sets, arguments.processes, stop_at=half + 1)
    stopped_at = last_step(runs / "stopped")
    train(runs / "stopped", sets, arguments.processes)
    facts = json.loads((runs / "whole" / "run.json").read_text())
    steps = [r for r in records(runs / "whole") if r["kind"] == "train"]
    measured = [r for r in records(runs / "whole") if r["kind"] == "validation"]
    speeds = {
        "LPIPS": [r["images_per_second"] for r in steps if r["step"] <= half][1:],
        "LPIPS and adversarial": [r["images_per_second"] for r in steps if r["step"] > half][1:],
    }
    made = {
        "command": "python benchmarks/shards.py --data IMAGES ... --vgg LPIPS_VGG --runs RUNS",
        "seed": 0,
        "date": places.today(),
        "hardware": facts["hardware"],
        "versions": facts["versions"],
        "parameters": facts["model"]["parameters"],
        "width": arguments.width,
        "batch": arguments.batch,
        "processes": arguments.processes,
        "pictures": arguments.pictures,
        "shards": len(list(shards.iterdir())),
        "steps": arguments.steps,
        "stopped_at": stopped_at,
        "images_per_second": {name: statistics.median(values) for name, values in speeds.items()},
        "most_gib": most / 2**30,
        "psnr": measured[-1]["psnr"],
        "same_weights": same_weights(runs / "whole", runs / "stopped"),
    }
    places.SHARDS.write_text(json.dumps(made, indent=1) + "\n")
    print(made)
    results_page.write()


if __name__ == "__main__":
    main()
