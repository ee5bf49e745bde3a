"""Networks whose features judge pictures. A number is named after the network and weights that it came from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..checkpoint.formats import read_state, sha256
from ..errors import SourceError
from ..training.losses import LPIPS
from .classifiers import CifarResNet, LeNet

#: How the SHA-256 of the InceptionV3 that FID is defined by begins, in torch-fidelity's conversion
#: (weights-inception-2015-12-05-6726825d.pth).
_INCEPTION_SHA256 = "6726825d"
#: Pictures that an FID is reported of (Heusel et al., 2017); of fewer it is another number, and a larger one.
_LEAST_OF_FID = 50_000
#: Which features of LPIPS' networks stand for patches: those that see 11 and 14 pixels a side.
_PATCHES = {"alex": (0, "relu1"), "vgg": (1, "relu2_2")}


@dataclass(frozen=True)
class PatchNetwork:
    """The first layers of a network: what they say of the patch around every position.

    Args:
        name: of the network, such as "Inception" or "LPIPS alex".
        layer: whose output it is.
        run: uint8 images (B, 3, H, W) to features (B, D, h, w), at the images' own size.
    """

    name: str
    layer: str
    run: Callable[[Tensor], Tensor] = field(repr=False)

    @property
    def metric(self) -> str:
        """The name of a Fréchet distance of patches by this network: only FID's own makes a SIFID."""
        return f"{'SIFID' if self.name == 'Inception' else 'patch FD'} ({self.name}, {self.layer})"


@dataclass(frozen=True)
class FeatureNetwork:
    """A network, its file, and the name its numbers carry.

    Args:
        name: such as "Inception" or "resnet56-cifar10".
        file, sha256: of the weights.
        run: uint8 images (B, 3, H, W) to features (B, D) and class logits (B, K).
        patches: its first layers; None where they say little of patches.
    """

    name: str
    file: str
    sha256: str
    run: Callable[[Tensor], tuple[Tensor, Tensor]] = field(repr=False)
    patches: PatchNetwork | None = field(default=None, repr=False)

    def metric(self, kind: str, count: int) -> str:
        """The name of a number by this network over `count` pictures, such as "KID (resnet56-cifar10, N=1000)".

        A Fréchet distance, "FD", is an FID only by FID's own network and of as many pictures as FID is reported of.
        """
        kind = "FID" if kind == "FD" and self.name == "Inception" and count >= _LEAST_OF_FID else kind
        return f"{kind} ({self.name}, N={count})"


def load_network(path: Path, device: torch.device) -> FeatureNetwork:
    """The feature network whose weights a file holds: FID's InceptionV3, a CIFAR-10 ResNet (He et al., Sec. 4.2), or
    MNIST's LeNet-5.

    Raises:
        SourceError: the file is missing or damaged, or holds none of them.
    """
    state = {name.removeprefix("module."): value for name, value in read_state(path).items()}
    digest = sha256(path)
    if "Mixed_7c.branch_pool.conv.weight" in state:
        name = "Inception" if digest.startswith(_INCEPTION_SHA256) else f"inception-{digest[:8]}"
        network = _inception(path).to(device)
        patches = PatchNetwork(name, "Conv2d_4a_3x3", lambda images: before_second_pooling(network, images))
        return FeatureNetwork(name, path.name, digest, lambda images: tuple(network(images)), patches)
    if "layer3.0.conv1.weight" in state and "linear.weight" in state:
        blocks = len({name.split(".")[1] for name in state if name.startswith("layer1.")})
        name = f"resnet{6 * blocks + 2}-cifar10"
        return FeatureNetwork(name, path.name, digest, _filled(CifarResNet(blocks), state, path, name).to(device))
    if "convnet.c5.weight" in state and "fc.f6.weight" in state:
        return FeatureNetwork("lenet5-mnist", path.name, digest, _filled(LeNet(), state, path, "LeNet-5").to(device))
    raise SourceError(
        f"{path} holds neither FID's InceptionV3 (as torch-fidelity has it), nor a CIFAR-10 ResNet, nor MNIST's LeNet-5"
    )


def patches_of_lpips(lpips: LPIPS) -> PatchNetwork:
    """The first layers of LPIPS' network."""
    tap, layer = _PATCHES[lpips.net]
    return PatchNetwork(f"LPIPS {lpips.net}", layer, lambda images: lpips.taps_of(signed(images))[tap])


def signed(pixels: Tensor) -> Tensor:
    """uint8 pixels as LPIPS takes them: float32 in [-1, 1]."""
    return pixels.float() / 127.5 - 1


def before_second_pooling(network: Any, images: Tensor) -> Tensor:
    """What InceptionV3 says of patches, up to its second max pooling and without resizing: (B, 192, h, w).

    That is where SinGAN, its paper (Shaham et al., 2019, Sec. 3) and its code, takes the features of SIFID; its code
    has torchvision's weights.
    """
    x = network.Conv2d_2b_3x3(network.Conv2d_2a_3x3(network.Conv2d_1a_3x3((images.float() - 128) / 128)))
    found: Tensor = network.Conv2d_4a_3x3(network.Conv2d_3b_1x1(network.MaxPool_1(x)))
    return found


def _filled(network: nn.Module, state: Mapping[str, Tensor], path: Path, name: str) -> nn.Module:
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        text = " ".join(str(error).split())[:160]
        raise SourceError(f"{path} is no {name}: {text}") from error
    return network.eval().requires_grad_(False)


def _inception(path: Path) -> Any:
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    try:
        return FeatureExtractorInceptionV3("inception", ["2048", "logits_unbiased"], str(path)).eval()
    except Exception as error:
        text = " ".join(str(error).split())[:160]
        raise SourceError(f"{path} is not torch-fidelity's InceptionV3: {text}") from error
