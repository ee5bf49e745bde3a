"""Networks whose features judge pictures. A number is named after the network and weights that it came from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from ..checkpoint.formats import read_state, sha256
from ..errors import SourceError
from .classifiers import CifarResNet

#: How the SHA-256 of the InceptionV3 that FID is defined by begins, in torch-fidelity's conversion
#: (weights-inception-2015-12-05-6726825d.pth).
_INCEPTION_SHA256 = "6726825d"
#: Pictures that an FID is reported of (Heusel et al., 2017); of fewer it is another number, and a larger one.
_LEAST_OF_FID = 50_000


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

    def metric(self, kind: str, count: int) -> str:
        """The name of a number by this network over `count` pictures, such as "KID (resnet56-cifar10, N=1000)".

        A Fréchet distance, "FD", is an FID only by FID's own network and of as many pictures as FID is reported of.
        """
        kind = "FID" if kind == "FD" and self.name == "Inception" and count >= _LEAST_OF_FID else kind
        return f"{kind} ({self.name}, N={count})"


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
