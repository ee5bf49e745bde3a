"""Damage files in every way, and see what `load` and `convert` say: run as a program, with limits, by `test_mutations`.

    python -m tests.checkpoint.mutations FOLDER SEED COUNT

makes the files in FOLDER, damages COUNT of them, and prints JSON: how often each outcome was, and what went wrong.
"""

from __future__ import annotations

import io
import json
import random
import resource
import shutil
import struct
import sys
import time
import traceback
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

import prismify
from prismify.checkpoint import Source, open_source
from prismify.errors import PrismifyError

ROOT = Path(__file__).parents[2]
prismify.__path__.append(str(ROOT))
#: Address space on top of what the process has when it begins.
MEMORY = 2 << 30
NET = """
from torch import nn

def make(width=16):
    return nn.Sequential(nn.Conv2d(3, width, 1), nn.Conv2d(width, width, 3), nn.Conv2d(width, 3, 1))
"""
TRICKS = ["../../out", "/etc/passwd", "..", "a/../../b", "x\0y", "C:\\x", "", "~/.bashrc", "a" * 300, "\u202e", "-rf"]
NONSENSE: list[Any] = [None, -1, 2**63, 1e308, "x", [], {}, [None], {"a": 1}, True, "9" * 400, *TRICKS]
Action = Callable[[Path], Any]


def net() -> nn.Sequential:
    scope: dict[str, Any] = {}
    exec(NET, scope)
    torch.manual_seed(0)
    made: nn.Sequential = scope["make"]()
    return made.eval()


def subjects(root: Path) -> dict[str, tuple[Path, list[str], Action]]:
    """What is damaged: a folder, the files in it that are, and what is done with it."""
    import diffusers

    (root / "net.py").write_text(NET)
    reference, state = f"{root / 'net.py'}:make", net().state_dict()
    found: dict[str, tuple[Path, list[str], Action]] = {}

    def load(folder: Path) -> Any:
        return prismify.load(folder, trust_code=True)

    prismify.save(prismify.convert(net()), root / "skeleton")
    found["skeleton"] = root / "skeleton", ["model.safetensors", "skeleton.pt", "prismify.json"], load
    prismify.save(prismify.convert(net()), root / "referred", reference=reference)
    found["referred"] = root / "referred", ["prismify.json"], load
    small: dict[str, Any] = {"block_out_channels": (16,), "norm_num_groups": 4, "layers_per_block": 1}
    vae = diffusers.AutoencoderKL(**small).eval()
    prismify.save(prismify.convert(vae, check=False), root / "diffusers")
    found["diffusers"] = root / "diffusers", ["config.json", "prismify.json"], load
    program = torch.export.export(net(), (torch.randn(1, 3, 8, 8),))
    prismify.save(prismify.convert(program), root / "program")
    found["program"] = root / "program", ["model.pt2", "prismify.json"], load

    def build(name: str, **how: Any) -> Action:
        def action(folder: Path) -> Any:
            source = open_source(str(folder / name) if name else str(folder), **how)
            assert isinstance(source, Source)
            return source.build()

        return action

    def weights(kind: str, name: str, write: Callable[[Path], None], **how: Any) -> None:
        (root / kind).mkdir()
        write(root / kind / name)
        found[kind] = root / kind, [name], build(name, **(how or {"model": reference}))

    weights("safetensors", "w.safetensors", lambda path: save_file(state, path))
    weights("pickle", "w.pt", lambda path: torch.save(state, path))
    weights("old", "w.pth", lambda path: torch.save(state, path, _use_new_zipfile_serialization=False))
    lightning = {"state_dict": {f"net.{n}": v for n, v in state.items()}, "hyper_parameters": {"lr": 1.0}, "epoch": 1}
    weights("lightning", "w.ckpt", lambda path: torch.save(lightning, path))
    weights("exported", "w.pt2", lambda path: torch.export.save(program, path), trust=False)

    def index(path: Path) -> None:
        halves = {f"s{i}.safetensors": dict(list(state.items())[i::2]) for i in range(2)}
        for name, half in halves.items():
            save_file(half, path.parent / name)
        path.write_text(json.dumps({"weight_map": {n: name for name, half in halves.items() for n in half}}))

    weights("shards", "w.index.json", index)
    for kind in ("safetensors", "lightning", "exported"):
        folder, names, _ = found[kind]
        shutil.copytree(folder, root / f"convert {kind}")
        found[f"convert {kind}"] = (
            root / f"convert {kind}",
            names,
            command("" if kind == "exported" else reference, names[0]),
        )
    vae.save_pretrained(root / "library")
    found["library"] = root / "library", ["config.json", "diffusion_pytorch_model.safetensors"], build("")
    (root / "plan").mkdir()
    prismify.scan(net()).save(root / "plan" / "plan.json")
    found["plan"] = root / "plan", ["plan.json"], lambda f: prismify.convert(net(), prismify.Plan.load(f / "plan.json"))
    return found


def command(reference: str, name: str) -> Action:
    """`prismify convert` on a file, all in this process: what it wrote, loaded; or the one line it said."""
    from prismify.cli.main import app
    from typer.testing import CliRunner

    def action(folder: Path) -> Any:
        output = folder.parent / "out"
        words = ["convert", str(folder / name), "-o", str(output), "--input", "1,3,8,8", "--json", "--force"]
        ran = CliRunner().invoke(app, [*words, *(["--model", reference] if reference else [])])
        if ran.exit_code == 0:
            loaded = prismify.load(output, trust_code=True)
            shutil.rmtree(output)
            return loaded
        lines = [line for line in ran.stderr.splitlines() if line]
        assert len(lines) == 1, ran.stderr
        assert lines[0].startswith("prismify: "), ran.stderr
        assert "unexpected" not in lines[0], ran.stderr
        assert not output.exists(), "an output was left"
        raise PrismifyError(lines[0])

    return action


def truncated(content: bytes, draw: random.Random) -> bytes:
    return content[: draw.randrange(len(content))]


def flipped(content: bytes, draw: random.Random) -> bytes:
    damaged = bytearray(content)
    for _ in range(draw.choice([1, 1, 2, 8, 64])):
        damaged[draw.randrange(len(damaged))] ^= 1 << draw.randrange(8)
    return bytes(damaged)


def overwritten(content: bytes, draw: random.Random) -> bytes:
    begin, size = draw.randrange(len(content)), draw.choice([1, 16, 512])
    return content[:begin] + draw.choice([b"\0", b"\xff", b"A"]) * size + content[begin + size :]


def joined(content: bytes, draw: random.Random) -> bytes:
    return draw.choice([content + content, content[: len(content) // 2] + content, b"\0" * 64 + content, b"", b"\x80"])


def with_header(content: bytes, draw: random.Random) -> bytes:
    """A safetensors file whose header lies: its length, a number type, a shape, an offset, a name."""
    (length,) = struct.unpack("<Q", content[:8])
    header, data = json.loads(content[8 : 8 + length]), content[8 + length :]
    entry = header[draw.choice([name for name in header if name != "__metadata__"])]
    kind = draw.randrange(5)
    if kind == 0:
        return struct.pack("<Q", draw.choice([0, 1, 2**20, 2**32, 2**63])) + content[8:]
    if kind == 1:
        entry["dtype"] = draw.choice(["F64", "F16", "I8", "BOOL", "F99", None, 3])
    elif kind == 2:
        entry["shape"] = draw.choice([[2**40], [0], [-1], [2**62, 4], [], "x", None])
    elif kind == 3:
        entry["data_offsets"] = draw.choice([[0, 2**50], [-8, 8], [8, 0], [0], None])
    else:
        header[draw.choice(TRICKS)] = entry
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def with_json(content: bytes, draw: random.Random) -> bytes:
    """JSON in which one value became nonsense, went away, or got a neighbour nobody knows."""
    value = json.loads(content)
    holder: Any = value
    for _ in range(draw.randrange(8)):
        keys = list(holder) if isinstance(holder, dict) else list(range(len(holder)))
        inside = [k for k in keys if isinstance(holder[k], (dict, list)) and holder[k]]
        if not inside:
            break
        holder = holder[draw.choice(inside)]
    key = draw.choice(list(holder) if isinstance(holder, dict) else list(range(len(holder))))
    how = draw.randrange(6)
    if how == 0:
        del holder[key]
    elif how == 1 and isinstance(holder, dict):
        holder[draw.choice(["unknown", *TRICKS])] = draw.choice(NONSENSE)
    elif how == 2 and "version" in json.dumps(list(value)):
        value[next(k for k in value if "version" in k)] = draw.choice([0, 2, "1", None, 1.5, [1]])
    else:
        holder[key] = draw.choice(NONSENSE)
    return json.dumps(value).encode()


def with_zip(content: bytes, draw: random.Random) -> bytes:
    """An archive packed again: compressed, bombs, other names, two of a name, without a record."""
    made, how = io.BytesIO(), draw.randrange(6)
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        names = archive.namelist()
        chosen = draw.choice(names)
        compression = zipfile.ZIP_DEFLATED if how in (0, 1) else zipfile.ZIP_STORED
        with zipfile.ZipFile(made, "w", compression) as out:
            for name in names:
                data = archive.read(name)
                if name == chosen and how == 1:
                    data = b"\0" * (1 << 28)
                if name == chosen and how == 2:
                    name = name.partition("/")[0] + "/" + draw.choice(TRICKS[:6])
                if not (name == chosen and how == 3):
                    out.writestr(name, data)
            if how == 4:
                out.writestr(chosen.upper(), b"other")
            elif how == 5:
                out.writestr(names[0].partition("/")[0] + draw.choice(["/code/m.py", "/data.pkl", "/../../e"]), b"x")
    return made.getvalue()


def mutators(name: str, content: bytes) -> list[Callable[[bytes, random.Random], bytes]]:
    general = [truncated, flipped, overwritten, joined]
    if name.endswith(".json"):
        return [*general, *[with_json] * 12]
    if name.endswith(".safetensors"):
        return [*general, *[with_header] * 4]
    return [*general, *([with_zip] * 4 if content[:2] == b"PK" else [])]


def watch(allowed: Path, caught: list[str]) -> None:
    """Note whatever is written outside `allowed`, started or connected to."""

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open" and isinstance(arguments[0], (str, bytes)):
            path, mode = arguments[0], arguments[1] or ""
            flags = arguments[2] if isinstance(arguments[2], int) else 0
            path = path.decode(errors="replace") if isinstance(path, bytes) else path
            if (set(str(mode)) & set("wax+") or flags & 3) and not path.startswith((str(allowed), "/dev/null")):
                caught.append(f"wrote {path}")
        elif event in ("os.system", "subprocess.Popen", "os.exec", "os.posix_spawn", "socket.connect", "pty.spawn"):
            caught.append(f"{event} {arguments[:1]}")

    sys.addaudithook(hook)


def bits(model: Any) -> dict[str, Any]:
    """The tensors of a loaded model or program, and the layers it was said to have."""
    plan = getattr(model, "prismify_plan", None)
    layers = [(d.name, d.decision, str(d.operator)) for d in plan.layers] if plan is not None else []
    state = model.state_dict() if isinstance(model, nn.Module) else model.state_dict
    return {**{name: value.clone() for name, value in state.items()}, "": layers}


def identical(ours: dict[str, Any], theirs: dict[str, Any]) -> bool:
    return ours.keys() == theirs.keys() and all(
        torch.equal(v, theirs[n]) if isinstance(v, torch.Tensor) else v == theirs[n] for n, v in ours.items()
    )


def main(root: Path, seed: int, count: int) -> dict[str, Any]:
    found = subjects(root)
    whole = {kind: bits(action(folder)) for kind, (folder, _, action) in found.items()}
    torch.set_num_threads(1)
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + MEMORY, size + MEMORY))
    caught: list[str] = []
    watch(root, caught)
    outcomes: Counter[str] = Counter()
    wrong: list[str] = []
    seconds: Counter[str] = Counter()
    quick = [kind for kind in found if not kind.startswith("convert")]
    order = [*quick * 8, *(kind for kind in found if kind not in quick)]  # a conversion takes as long as ten loads
    for number in range(count):
        draw = random.Random(seed + number)
        kind = order[number % len(order)]
        folder, names, action = found[kind]
        name = draw.choice(names)
        copied = root / "damaged" / folder.name
        shutil.copytree(folder, copied)
        content = (copied / name).read_bytes()
        mutate = draw.choice(mutators(name, content))
        (copied / name).write_bytes(mutate(content, draw))
        case, begun = f"{seed + number}: {kind}/{name} {mutate.__name__}", time.monotonic()
        try:
            result = bits(action(copied))
        except PrismifyError as error:
            outcomes["refused"] += 1
            if "\n" in str(error) or not str(error):
                wrong.append(f"{case}: more than a line: {error!r}")
        except BaseException:
            wrong.append(f"{case}: {traceback.format_exc(limit=-3)}")
        else:
            same = identical(result, whole[kind])
            outcomes["identical" if same else "another"] += 1
            # A folder of prismify's carries what tells; other people's files say no more than their values.
            if not same and kind in ("skeleton", "referred", "diffusers", "program") and name != "prismify.json":
                wrong.append(f"{case}: loaded, and is another model")
        if caught:
            wrong.append(f"{case}: {caught[0]}")
            caught.clear()
        seconds[kind] += time.monotonic() - begun  # type: ignore[assignment]
        shutil.rmtree(root / "damaged")
    return {"outcomes": outcomes, "wrong": wrong, "seconds": {k: round(v, 2) for k, v in seconds.items()}}


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))))
