"""LPIPS: the distance of deep features, weighted by heads fitted to people's judgements (Zhang et al., 2018)."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ...checkpoint.formats import read_state, sha256
from ...errors import PrismifyError, RecipeError
from ..schema import Perceptual

#: Backbones by torchvision's numbering of `features`: convolution (in, out, kernel, stride, padding), max pool
#: (kernel, stride) or rectifier; "tap" marks where features are compared.
_ALEX: tuple[Any, ...] = (
    (3, 64, 11, 4, 2), "relu", "tap", (3, 2), (64, 192, 5, 1, 2), "relu", "tap", (3, 2),
    (192, 384, 3, 1, 1), "relu", "tap", (384, 256, 3, 1, 1), "relu", "tap", (256, 256, 3, 1, 1), "relu", "tap",
)  # fmt: skip
_VGG: tuple[Any, ...] = (
    (3, 64, 3, 1, 1), "relu", (64, 64, 3, 1, 1), "relu", "tap", (2, 2),
    (64, 128, 3, 1, 1), "relu", (128, 128, 3, 1, 1), "relu", "tap", (2, 2),
    (128, 256, 3, 1, 1), "relu", (256, 256, 3, 1, 1), "relu", (256, 256, 3, 1, 1), "relu", "tap", (2, 2),
    (256, 512, 3, 1, 1), "relu", (512, 512, 3, 1, 1), "relu", (512, 512, 3, 1, 1), "relu", "tap", (2, 2),
    (512, 512, 3, 1, 1), "relu", (512, 512, 3, 1, 1), "relu", (512, 512, 3, 1, 1), "relu", "tap",
)  # fmt: skip
_BACKBONES = {"alex": (_ALEX, "alexnet"), "vgg": (_VGG, "vgg16")}


class LPIPS(nn.Module):
    """The perceptual distance of two batches of images in [-1, 1], (B, 3, H, W): shape (B,).

    Grey images are taken as three equal channels. No weight of it ever learns.

    Args:
        net: "alex" or "vgg".
    """

    def __init__(self, net: str) -> None:
        super().__init__()
        self.net = net
        plan, _ = _BACKBONES[net]
        layers: list[nn.Module] = []
        self.taps: list[int] = []
        widths: list[int] = []
        for item in plan:
            if item == "tap":
                self.taps.append(len(layers))
            elif item == "relu":
                layers.append(nn.ReLU())
            elif len(item) == 2:
                layers.append(nn.MaxPool2d(*item))
            else:
                layers.append(nn.Conv2d(*item))
            if item == "tap":
                widths.append(next(m.out_channels for m in reversed(layers) if isinstance(m, nn.Conv2d)))
        self.features = nn.Sequential(*layers)
        self.heads = nn.ParameterList(nn.Parameter(torch.zeros(1, w, 1, 1)) for w in widths)
        # ImageNet's mean and deviation, for images in [-1, 1]: the numbers of the published LPIPS.
        self.register_buffer("shift", torch.tensor([-0.030, -0.088, -0.188]).view(1, 3, 1, 1))
        self.register_buffer("scale", torch.tensor([0.458, 0.448, 0.450]).view(1, 3, 1, 1))
        self.eval().requires_grad_(False)

    def train(self, mode: bool = True) -> LPIPS:
        return super().train(False)

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        distance = torch.zeros(len(first), device=first.device)
        pairs = zip(self.taps_of(first), self.taps_of(second), self.heads, strict=True)
        for one, other, head in pairs:
            difference = (unit_length(one) - unit_length(other)).square()
            distance = distance + (difference * head).sum(1).mean((1, 2))
        return distance

    def taps_of(self, images: Tensor) -> list[Tensor]:
        """The features that are compared, each (B, D, h, w), of images in [-1, 1]."""
        shift, scale = self.get_buffer("shift"), self.get_buffer("scale")
        x = (images.float().expand(-1, 3, -1, -1) - shift) / scale
        found, begin = [], 0
        for end in self.taps:
            x = self.features[begin:end](x)
            found.append(x)
            begin = end
        return found


def unit_length(features: Tensor) -> Tensor:
    """Each position's features at length one."""
    return features / (features.square().sum(1, keepdim=True).add(1e-20).sqrt() + 1e-10)


def load_lpips(options: Perceptual, key: str = "loss.lpips.weights") -> tuple[LPIPS, str]:
    """LPIPS with its trained weights, and a line that says which: file and SHA-256.

    Args:
        key: what a person sets to name the file.

    Raises:
        RecipeError: no weights are to be had, or the file holds others.
    """
    model = LPIPS(options.net)
    if options.weights is None:
        state, said = _from_libraries(options.net, key)
    else:
        path = Path(options.weights)
        try:
            state = read_state(path)
        except PrismifyError as error:
            raise RecipeError(f"{key}: {error}") from error
        said = f"{path.name}, SHA-256 {sha256(path)}"
    heads = sorted(name for name in state if name.startswith("lin"))
    ours = {name: value.float() for name, value in state.items() if name.startswith("features.")}
    ours |= {f"heads.{i}": state[name].float() for i, name in enumerate(heads)}
    ours |= {"shift": model.get_buffer("shift"), "scale": model.get_buffer("scale")}
    try:
        model.load_state_dict(ours)
    except RuntimeError as error:
        text = " ".join(str(error).split())[:160]
        raise RecipeError(
            f"{key}: {said} holds no LPIPS of {options.net} (features.N.weight, linN.weight): {text}"
        ) from error
    return model, f"LPIPS {options.net}, {said}"


def _from_libraries(net: str, key: str) -> tuple[dict[str, Tensor], str]:
    """The backbone from torchvision, the heads that come with torchmetrics."""
    try:
        backbone = importlib.import_module("prismify.families.torchvision_data").backbone(_BACKBONES[net][1])
        heads_file = Path(importlib.import_module("torchmetrics").__file__ or "").parent
        heads_file = heads_file / "functional" / "image" / "lpips_models" / f"{net}.pth"
        heads = torch.load(heads_file, map_location="cpu", weights_only=True)
    except Exception as error:
        raise RecipeError(
            f"no weights for LPIPS ({net}): torchvision's backbone is neither here nor to be fetched "
            f"({' '.join(str(error).split())[:120]}); set {key} to a file (docs/recipes.md), or "
            f"{key.rsplit('.', 2)[0]}.perceptual=0"
        ) from error
    state = {name: value for name, value in backbone.items() if name.startswith("features.")}
    state |= {f"lin{i}.weight": heads[f"lin{i}.model.1.weight"] for i in range(5)}
    return state, f"torchvision's {_BACKBONES[net][1]} with torchmetrics' heads"
