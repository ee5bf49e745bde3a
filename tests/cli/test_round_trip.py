"""Every kind of SOURCE, through `convert` and `prismify.load` in a fresh process: the same outputs, bit for bit."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import diffusers
import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn

import prismify
from prismify import checkpoint
from prismify.checkpoint import Source

UNET: dict[str, Any] = {
    "sample_size": 16,
    "block_out_channels": [16, 32],
    "down_block_types": ["DownBlock2D", "AttnDownBlock2D"],
    "up_block_types": ["AttnUpBlock2D", "UpBlock2D"],
    "layers_per_block": 1,
    "norm_num_groups": 8,
    "attention_head_dim": 8,
}
UNET_ARGUMENTS = [word for key, value in UNET.items() for word in ("--arg", f"{key}={json.dumps(value)}")]
HELPER = """
from torch import nn

class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1)
        self.norm = nn.BatchNorm2d(width)
        # Random, in no state dict: only the folder can bring it back.
        import torch
        self.register_buffer("noise", torch.randn(width, 1, 1), persistent=False)

    def forward(self, x):
        return x + self.noise * self.norm(self.conv(x))
"""
FACTORY = """
from torch import nn
from blocks.block import Block

def make(width=16):
    wide = nn.Conv2d(width, 2 * width, 3, padding=1)
    return nn.Sequential(nn.Conv2d(3, width, 3, padding=1), Block(width), wide, nn.Conv2d(2 * width, 3, 3, padding=1))
"""


@dataclass(frozen=True)
class Kind:
    """One way to name a model: the words for the command line, and what it is then called with."""

    source: str
    words: list[str] = field(default_factory=list)
    inputs: str = "image"


def write_sources(folder: Path) -> dict[str, Kind]:
    """One source of each kind, in `folder`; paths are relative to it."""
    kinds: dict[str, Kind] = {}
    unet = diffusers.UNet2DModel(**UNET).eval()

    def diffusers_folder(name: str, **how: Any) -> None:
        unet.save_pretrained(folder / name, **how)
        kinds[name] = Kind(name, inputs="timed")

    diffusers_folder("safetensors")
    diffusers_folder("bin", safe_serialization=False)
    diffusers_folder("shards", max_shard_size="100KB")
    diffusers_folder("bin_shards", max_shard_size="100KB", safe_serialization=False)
    torch.save(unet.state_dict(), folder / "unet.pt")
    torch.save(unet, folder / "unet_module.pt")
    unet.half()
    diffusers_folder("fp16", variant="fp16")
    diffusers_folder("fp16_shards", variant="fp16", max_shard_size="50KB")
    kinds["diffusers_weights"] = Kind("unet.pt", ["--model", "diffusers:UNet2DModel", *UNET_ARGUMENTS], "timed")
    kinds["diffusers_reference"] = Kind("diffusers:UNet2DModel", UNET_ARGUMENTS, "timed")
    kinds["diffusers_module"] = Kind("unet_module.pt", inputs="timed")

    resnet = torchvision.models.resnet18(num_classes=10)
    for module in resnet.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.num_batches_tracked.fill_(7)
    torch.save(resnet.state_dict(), folder / "resnet.pth")
    torch.save({"epoch": 3, "state_dict": nn.DataParallel(resnet).state_dict()}, folder / "wrapped.ckpt")
    torch.save(resnet, folder / "resnet_module.pt")
    named = ["--model", "torchvision:resnet18", "--arg", "num_classes=10"]
    kinds["torchvision_weights"] = Kind("resnet.pth", named)
    kinds["wrapped_state_dict"] = Kind("wrapped.ckpt", named)
    kinds["torchvision_module"] = Kind("resnet_module.pt")

    small = timm.create_model("test_resnet")
    torch.save(small.state_dict(), folder / "timm.bin")
    torch.save(small, folder / "timm_module.pt")
    kinds["timm_weights"] = Kind("timm.bin", ["--model", "timm:test_resnet"])
    kinds["timm_module"] = Kind("timm_module.pt")
    kinds["timm_reference"] = Kind("timm:test_resnet")

    (folder / "blocks").mkdir()
    (folder / "blocks" / "__init__.py").touch()
    (folder / "blocks" / "block.py").write_text(HELPER)
    (folder / "factory.py").write_text(FACTORY)
    plain = nn.Sequential(nn.Conv2d(3, 12, 3), nn.BatchNorm2d(12), nn.SiLU(), nn.Conv2d(12, 12, 3), nn.Conv2d(12, 3, 1))
    torch.save(plain, folder / "sequential.pt")
    kinds["sequential_module"] = Kind("sequential.pt")
    kinds["file"] = Kind("factory.py:make", ["--arg", "width=24"])
    kinds["package"] = Kind("blocks_package.made:make")
    shutil.copytree(folder / "blocks", folder / "blocks_package")
    (folder / "blocks_package" / "made.py").write_text(FACTORY.replace("blocks.block", ".block"))
    return kinds


def inputs_for(kind: Kind, model: nn.Module) -> tuple[Any, ...]:
    image = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    image = image.to(next(model.parameters()).dtype)
    return (image[..., :16, :16], torch.tensor([3, 5])) if kind.inputs == "timed" else (image,)


def whole(model: nn.Module, source: Source) -> nn.Module:
    """A converted model with all its weights: those that are streamed from the source are on `meta` till then."""
    away = [name for name, tensor in model.state_dict().items() if tensor.is_meta]
    if not away:
        return model
    state = source.build().state_dict()
    model = copy.deepcopy(model)
    model.load_state_dict({name: state[name] for name in away}, strict=False, assign=True)
    return model


def output_of(model: nn.Module, inputs: tuple[Any, ...]) -> Tensor:
    with torch.no_grad():
        output = model(*inputs)
    return output if isinstance(output, Tensor) else output[0]


READ = """
import torch, prismify
kinds = torch.load("kinds.pt")
outputs = {}
for name, inputs in kinds.items():
    model = prismify.load("converted/" + name, trust_code=True)
    with torch.no_grad():
        output = model(*inputs)
    state = {k: v for k, v in model.state_dict().items()}
    outputs[name] = (output if isinstance(output, torch.Tensor) else output[0], state)
pipeline = prismify.load("converted/pipeline")
pipeline.set_progress_bar_config(disable=True)
images = pipeline(generator=torch.manual_seed(0), num_inference_steps=2, output_type="np").images
torch.save((outputs, torch.from_numpy(images)), "outputs.pt")
"""


def write_pipeline(folder: Path) -> diffusers.LDMPipeline:
    blocks: dict[str, Any] = {"down_block_types": ("DownBlock2D",), "up_block_types": ("UpBlock2D",)}
    unet = diffusers.UNet2DModel(sample_size=8, block_out_channels=(16,), norm_num_groups=4, **blocks)
    vqvae = diffusers.VQModel(block_out_channels=(16,), norm_num_groups=4, sample_size=8)
    pipeline = diffusers.LDMPipeline(vqvae, unet, diffusers.DDIMScheduler(num_train_timesteps=4))
    pipeline.save_pretrained(folder / "pipeline")
    return pipeline


Outcome = tuple[Path, nn.Module, Tensor, Tensor, dict[str, Tensor]]


@pytest.fixture(scope="module")
def everything(
    tmp_path_factory: pytest.TempPathFactory, run: Callable[..., Any], python: Callable[..., Any]
) -> tuple[dict[str, Outcome], Tensor, Tensor]:
    """Every source converted here and read in one fresh process; what a pipeline samples here and there."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("sources")
    kept: dict[str, nn.Module] = {}
    save, save_pipeline = checkpoint.save, checkpoint.save_pipeline
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)

        def keep(model: nn.Module, output: Path, **options: Any) -> None:
            kept[Path(output).name] = whole(model, options["source"])
            save(model, output, **options)

        def keep_parts(pipeline: Any, models: dict[str, nn.Module], output: Path, **options: Any) -> None:
            kept.update({name: whole(model, pipeline.parts[name]) for name, model in models.items()})
            save_pipeline(pipeline, models, output, **options)

        patch.setattr(checkpoint, "save", keep)
        patch.setattr(checkpoint, "save_pipeline", keep_parts)
        kinds = write_sources(folder)
        for name, kind in kinds.items():
            ran = run("convert", kind.source, *kind.words, "-o", f"converted/{name}", "--json")
            assert ran.code == 0, (name, ran.err)
        for name, source in (("again", "safetensors"), ("file_again", "file")):
            words = ["--policy", "volumes", "--trust-code", "--min-volume", "4"]
            ran = run("convert", f"converted/{source}", "-o", f"converted/{name}", *words)
            assert ran.code == 0, (name, ran.err)
            kinds[name] = kinds[source]
        pipeline = write_pipeline(folder)
        assert run("convert", "pipeline", "-o", "converted/pipeline").code == 0
    inputs = {name: inputs_for(kind, kept[name]) for name, kind in kinds.items()}
    elsewhere = tmp_path_factory.mktemp("elsewhere")  # without the sources: folders stand on their own
    shutil.move(folder / "converted", elsewhere / "converted")
    shutil.move(folder / "blocks_package", elsewhere / "blocks_package")
    torch.save(inputs, elsewhere / "kinds.pt")
    ran = python(READ, cwd=elsewhere)
    assert ran.code == 0, ran.err
    read, images = torch.load(elsewhere / "outputs.pt")
    pipeline.register_modules(unet=kept["unet"], vqvae=kept["vqvae"])
    pipeline.set_progress_bar_config(disable=True)
    sampled = pipeline(generator=torch.manual_seed(0), num_inference_steps=2, output_type="np").images
    outcomes = {
        name: (elsewhere / "converted" / name, kept[name], output_of(kept[name], inputs[name]), *read[name])
        for name in kinds
    }
    return outcomes, torch.from_numpy(sampled), images


@pytest.fixture(scope="module")
def converted(everything: tuple[dict[str, Outcome], Tensor, Tensor]) -> dict[str, Outcome]:
    """Kind -> (folder, model before saving, its output, output and state in a fresh process elsewhere)."""
    return everything[0]


KINDS = """
    safetensors bin shards bin_shards fp16 fp16_shards diffusers_weights diffusers_reference diffusers_module
    torchvision_weights wrapped_state_dict torchvision_module timm_weights timm_module timm_reference
    sequential_module file package again file_again
""".split()  # noqa: SIM905 - a page of quotes says less


@pytest.mark.parametrize("name", KINDS)
def test_a_fresh_process_gives_the_same_output_and_state(converted: Any, name: str) -> None:
    _, model, output, read, state = converted[name]
    assert torch.equal(output, read)
    assert {k: v.dtype for k, v in state.items()} == {k: v.dtype for k, v in model.state_dict().items()}
    for key, value in model.state_dict().items():
        assert torch.equal(value, state[key]), key


def test_a_pipeline_samples_the_same_in_a_fresh_process(everything: Any) -> None:
    _, before, after = everything
    assert torch.equal(before, after)


def test_every_kind_is_tested(converted: Any) -> None:
    assert sorted(converted) == sorted(KINDS)


@pytest.mark.parametrize("name", KINDS)
def test_the_folder_is_complete(converted: Any, name: str) -> None:
    folder, model = converted[name][:2]
    files = {path.name for path in folder.iterdir()}
    assert {"model.safetensors", "prismify.json", "report.json", "report.md", "recipe.yaml"} <= files
    manifest = json.loads((folder / "prismify.json").read_text())
    assert set(manifest["files"]) == files - {"prismify.json"}
    assert manifest["versions"]["prismify"] == prismify.__version__
    report = json.loads((folder / "report.json").read_text())
    assert report["parameters"]["after"] == sum(p.numel() for p in model.parameters())
    assert report["replaced"]["layers"] > 0


@pytest.mark.parametrize("name", ["safetensors", "shards", "fp16", "diffusers_module", "again"])
def test_a_diffusers_model_keeps_its_config(converted: Any, name: str) -> None:
    config = json.loads((converted[name][0] / "config.json").read_text())
    assert config["_class_name"] == "UNet2DModel"
    assert config["block_out_channels"] == [16, 32]
    assert not (converted[name][0] / "skeleton.pt").exists()


@pytest.mark.parametrize(("name", "count"), [("safetensors", 1), ("shards", None), ("torchvision_weights", 1)])
def test_the_manifest_names_the_weights_it_came_from(converted: Any, name: str, count: int | None) -> None:
    hashes = json.loads((converted[name][0] / "prismify.json").read_text())["source"]["sha256"]
    assert count is None or len(hashes) == count
    assert all(len(value) == 64 for value in hashes.values())


@pytest.mark.parametrize("name", ["diffusers_reference", "timm_reference"])
def test_fresh_weights_are_called_fresh(converted: Any, name: str) -> None:
    source = json.loads((converted[name][0] / "prismify.json").read_text())["source"]
    assert source["weights"] == "fresh"
    assert "sha256" not in source


def test_dtype_and_counters_are_kept(converted: Any) -> None:
    assert {v.dtype for v in converted["fp16"][4].values()} == {torch.float16}
    counters = [v for k, v in converted["torchvision_weights"][4].items() if k.endswith("num_batches_tracked")]
    assert counters
    assert all(int(v) == 7 and v.dtype == torch.long for v in counters)


def test_a_file_takes_its_neighbours_along_and_leaves_no_bytecode(converted: Any) -> None:
    folder = converted["file"][0]
    assert (folder / "factory.py").is_file()
    assert (folder / "blocks" / "block.py").is_file()
    assert not list(folder.rglob("__pycache__"))
    assert (folder / "buffers.safetensors").is_file()


def test_converting_again_keeps_what_was_done_and_goes_on(converted: Any) -> None:
    first = {d.name for d in converted["safetensors"][1].prismify_plan.replaced}
    second = {d.name for d in converted["again"][1].prismify_plan.replaced}
    assert first < second
