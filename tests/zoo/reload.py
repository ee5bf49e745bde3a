"""Load what walks have saved, in this process, which has seen none of it, and compare what it computes bit by bit.

python -m tests.zoo.reload FOLDER    prints a JSON object: row's folder -> "ok" or why not.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import warnings
from pathlib import Path

ROOT = Path(__file__).parents[2]


def reload(folder: Path) -> dict[str, str]:
    """`load` every row that `walk` left in `folder`, in one fresh process."""
    import torch

    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": str(torch.get_num_threads())}
    done = subprocess.run(
        [sys.executable, "-m", "tests.zoo.reload", str(folder)],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise RuntimeError(f"the fresh process failed: {done.stderr[-500:]}")
    found: dict[str, str] = json.loads(done.stdout.splitlines()[-1])
    return found


def _reloaded(folder: Path) -> str:
    import torch

    import prismify
    from prismify.graph import ExampleInputs

    from .walk import outputs

    expected = torch.load(folder / "expected.pt", weights_only=False)
    model = prismify.load(folder / "model", trust_code=True)
    for (method, args, kwargs), wanted in zip(expected["calls"], expected["outputs"], strict=True):
        for index, (ours, theirs) in enumerate(
            zip(outputs(model, method, ExampleInputs(args, kwargs)), wanted, strict=True)
        ):
            if ours.shape != theirs.shape or not torch.equal(ours.nan_to_num(), theirs.nan_to_num()):
                return f"output {index} of {method} differs after loading"
    return "ok"


def main() -> None:
    from prismify.errors import one_line

    warnings.simplefilter("ignore")
    found = {}
    for path in sorted(Path(sys.argv[1]).iterdir()):
        if (path / "expected.pt").is_file():
            try:
                found[path.name] = _reloaded(path)
            except Exception as error:
                found[path.name] = one_line(error, 200)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
