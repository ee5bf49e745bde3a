"""Walk the zoo and print the table.

    python -m tests.zoo [WORD ...]     rows whose name, or group, holds one of the words; all by default

writes benchmarks/results/zoo.json and docs/zoo.md, in which rows that were not walked stay as they were.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
import warnings
from pathlib import Path

from .page import markdown
from .reload import ROOT, reload
from .row import Row
from .table import GROUPS, ROWS
from .walk import STEPS, Result, slug, walk

RESULTS = ROOT / "benchmarks" / "results" / "zoo.json"


def main() -> None:
    warnings.simplefilter("ignore")
    words, begun = [word.lower() for word in sys.argv[1:]], time.time()
    for group, members in GROUPS.items():
        rows = [
            row
            for row in members
            if row.small is not None and (not words or any(w in f"{row.name} {group}".lower() for w in words))
        ]
        if rows:
            _keep(_walked(rows))
    results = _kept()
    print(f"{sum(r.green for r in results.values())} of {len(results)} green; {time.time() - begun:.0f} s")


def _walked(rows: list[Row]) -> list[Result]:
    with tempfile.TemporaryDirectory() as folder:
        results = []
        for row in rows:
            results.append(walk(row, Path(folder)))
            print(_line(results[-1]), flush=True)
        loaded = reload(Path(folder))
    for row, result in zip(rows, results, strict=True):
        if slug(row) in loaded:
            result.steps["load"] = loaded[slug(row)]
            if loaded[slug(row)] != "ok":
                print(f"{row.name}: load: {loaded[slug(row)]}")
    return results


def _kept() -> dict[str, Result]:
    """The results on disk of rows that are still in the table, in its order."""
    found = {row["name"]: Result(**row) for row in json.loads(RESULTS.read_text())} if RESULTS.is_file() else {}
    return {row.name: found[row.name] for row in ROWS if row.name in found}


def _keep(results: list[Result]) -> None:
    found = _kept() | {result.name: result for result in results}
    plain = [found[row.name].plain() for row in ROWS if row.name in found]
    RESULTS.write_text(json.dumps(plain, indent=1) + "\n")
    (ROOT / "docs" / "zoo.md").write_text(markdown(GROUPS, _kept()))


def _line(result: Result) -> str:
    wrong = [f"{step}: {text}" for step, text in result.steps.items() if text != "ok"]
    done = sum(text == "ok" for text in result.steps.values())
    ratio = result.parameters[0] / result.parameters[1] if result.parameters[1] else 0
    head = f"{result.name}: {done}/{len(STEPS) - 1}, {result.replaced} of {result.layers} layers by {result.policy}"
    slow = ", ".join(f"{s} {t:.1f}" for s, t in result.seconds.items() if t > 1)
    times = f"{sum(result.seconds.values()):.1f} s ({slow})"
    return f"{head}, {ratio:.3g}x, {times}" + "".join(f"\n    {text}" for text in wrong)


if __name__ == "__main__":
    main()
