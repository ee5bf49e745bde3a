"""Walk the whole zoo and print the table.

    python -m tests.zoo [NAME ...]     rows whose name holds one of the words; all by default

writes docs/zoo.md and benchmarks/results/zoo.json when all rows were walked.
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
from .table import GROUPS, ROWS
from .walk import STEPS, Result, slug, walk


def main() -> None:
    warnings.simplefilter("ignore")
    words = [word.lower() for word in sys.argv[1:]]
    rows = [r for r in ROWS if r.small is not None and (not words or any(w in r.name.lower() for w in words))]
    results: dict[str, Result] = {}
    begun = time.time()
    with tempfile.TemporaryDirectory() as folder:
        for row in rows:
            results[row.name] = walk(row, Path(folder))
            print(_line(results[row.name]), flush=True)
        loaded = reload(Path(folder))
    for row in rows:
        if slug(row) in loaded:
            results[row.name].steps["load"] = loaded[slug(row)]
            if loaded[slug(row)] != "ok":
                print(f"{row.name}: load: {loaded[slug(row)]}")
    green = sum(r.green for r in results.values())
    print(f"{green} of {len(results)} green, {time.time() - begun:.0f} s")
    if not words:
        (ROOT / "benchmarks" / "results" / "zoo.json").write_text(
            json.dumps([r.plain() for r in results.values()], indent=1) + "\n"
        )
        (ROOT / "docs" / "zoo.md").write_text(markdown(GROUPS, results))


def _line(result: Result) -> str:
    wrong = [f"{step}: {text}" for step, text in result.steps.items() if text != "ok"]
    done = sum(text == "ok" for text in result.steps.values())
    ratio = result.parameters[0] / result.parameters[1] if result.parameters[1] else 0
    seconds = sum(result.seconds.values())
    head = f"{result.name}: {done}/{len(STEPS) - 1}, {result.replaced} of {result.layers} layers by {result.policy}"
    slow = ", ".join(f"{s} {t:.1f}" for s, t in result.seconds.items() if t > 1)
    return f"{head}, {ratio:.3g}x, {seconds:.1f} s ({slow})" + "".join(f"\n    {text}" for text in wrong)


if __name__ == "__main__":
    main()
