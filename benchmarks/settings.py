"""What settings of a denoiser are worth: short runs side by side, in one table.

    python benchmarks/settings.py RUN ...

reads the folders of runs of the recipe `mnist-ddpm` (of equal steps and seed), and writes
benchmarks/results/mnist-settings-cpu.json and the page (`results_page.py`).
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import places
import results_page
import yaml


def row(folder: Path) -> dict[str, Any]:
    """What a run was told, and how far it came."""
    recipe = yaml.safe_load((folder / "recipe.yaml").read_text())
    facts = json.loads((folder / "run.json").read_text())
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    train = [r for r in records if r["kind"] == "train"][-1]
    errors = {r["step"]: r["error"] for r in records if r["kind"] == "validation"}
    return {
        "convert": recipe["model"]["convert"],
        "learning_rate": recipe["train"]["learning_rate"],
        "kernel_rate": recipe["train"]["rates"]["kernel"],
        "batch_size": recipe["train"]["batch_size"],
        "seed": facts["seed"],
        "steps": train["step"],
        "seconds": train["seconds"],
        "parameters": facts["model"]["parameters"],
        "errors": errors,
        "date": places.today(),
        "hardware": facts["hardware"],
        "versions": facts["versions"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="+", type=Path)
    rows = [row(folder) for folder in parser.parse_args().runs]
    places.SETTINGS.write_text(json.dumps(rows, indent=1) + "\n")
    results_page.write()


if __name__ == "__main__":
    main()
