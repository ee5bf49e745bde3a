"""Networks whose features judge pictures. A number is named after the network and weights that it came from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..checkpoint.formats import read_state, sha256
from ..errors import SourceError

#: How the SHA-256 of the InceptionV3 that FID is defined by begins, in torch-fidelity's conversion
#: (weights-inception-2015-12-05-6726825d.pth).
_INCEPTION_SHA256 = "6726825d"
#: ImageNet's mean and deviation of images in [0, 1]; the CIFAR-10 networks were trained with them.
_MEAN, _DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class FeatureNetwork:
    """A network, its file, and the name its numbers carry.

    Args:
        name: such as "Inception" or "resnet56-cifar10".
        file, sha256: of the weights.
        run: uint8 images (B, 3, H, W) to features (B, D) and class logits (B, K).
    """

    name: str
    file: str
    sha256: str
    run: Callable[[Tensor], tuple[Tensor, Tensor]] = field(repr=False)

    def metric(self, kind: str) -> str:
        """The name of an IS, KID or FID by this network: only FID's own network makes an FID."""
        kind = "FD" if kind == "FID" and self.name != "Inception" else kind
        return f"{kind}-{self.name}"


def load_network(path: Path, device: torch.device) -> FeatureNetwork:
    """The feature network whose weights a file holds: FID's InceptionV3, or a CIFAR-10 ResNet (He et al., Sec. 4.2).

    Raises:
        SourceError: the file is missing or damaged, or holds neither.
    """
    state = {name.removeprefix("module."): value for name, value in read_state(path).items()}
    digest = sha256(path)
    if "Mixed_7c.branch_pool.conv.weight" in state:
        published = digest.startswith(_INCEPTION_SHA256)
        name = "Inception" if published else f"inception-{digest[:8]}"
        return FeatureNetwork(name, path.name, digest, _inception(path, state, device))
    if "layer3.0.conv1.weight" in state and "linear.weight" in state:
        blocks = len({name.split(".")[1] for name in state if name.startswith("layer1.")})
        network = CifarResNet(blocks).eval().requires_grad_(False)
        try:
            network.load_state_dict(state)
        except RuntimeError as error:
            text = " ".join(str(error).split())[:160]
            raise SourceError(f"{path} is not a CIFAR-10 ResNet-{6 * blocks + 2}: {text}") from error
        return FeatureNetwork(f"resnet{6 * blocks + 2}-cifar10", path.name, digest, network.to(device))
    raise SourceError(f"{path} holds neither FID's InceptionV3 (as torch-fidelity has it) nor a CIFAR-10 ResNet")


def _inception(path: Path, state: dict[str, Tensor], device: torch.device) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    try:
        network = FeatureExtractorInceptionV3("inception", ["2048", "logits_unbiased"], str(path))
    except Exception as error:
        text = " ".join(str(error).split())[:160]
        raise SourceError(f"{path} is not torch-fidelity's InceptionV3: {text}") from error
    network = network.eval().to(device)

    def run(images: Tensor) -> tuple[Tensor, Tensor]:
        features, logits = network(images)
        return features, logits

    return run


class CifarResNet(nn.Module):
    """The ResNet of 6n + 2 layers for CIFAR-10 (He et al., 2016, Sec. 4.2), shortcuts without weights.

    uint8 images (B, 3, H, W), resized to 32×32, to features (B, 64) and logits (B, 10).
    """

    def __init__(self, blocks: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = nn.Sequential(*(_Block(16, 16) for _ in range(blocks)))
        self.layer2 = nn.Sequential(_Block(16, 32), *(_Block(32, 32) for _ in range(blocks - 1)))
        self.layer3 = nn.Sequential(_Block(32, 64), *(_Block(64, 64) for _ in range(blocks - 1)))
        self.linear = nn.Linear(64, 10)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        x = images.float() / 255
        if x.shape[-2:] != (32, 32):
            x = F.interpolate(x, (32, 32), mode="bilinear", antialias=True)
        x = (x - x.new_tensor(_MEAN)[:, None, None]) / x.new_tensor(_DEVIATION)[:, None, None]
        x = self.layer3(self.layer2(self.layer1(F.relu(self.bn1(self.conv1(x))))))
        features = x.mean((2, 3))
        return features, self.linear(features)


class _Block(nn.Module):
    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.stride = 1 if in_channels == out_channels else 2
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, self.stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        if self.stride == 2:  # every second pixel, and new channels of zeros on both sides
            more = (y.shape[1] - x.shape[1]) // 2
            x = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, more, more))
        return F.relu(x + y)
