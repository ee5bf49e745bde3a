"""The networks that judge: what they know, and what they see of a patch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from prismify.errors import SourceError
from prismify.metrics.classifiers import LeNet
from prismify.metrics.networks import (
    FeatureNetwork,
    PatchNetwork,
    before_second_pooling,
    load_network,
    patches_of_lpips,
)
from prismify.training.losses import LPIPS, load_lpips
from prismify.training.schema import Perceptual


@pytest.mark.data
def test_the_lenet_knows_mnist(shared_data: Path) -> None:
    network = load_network(shared_data / "mnist_lenet" / "lenet.pth", torch.device("cpu"))
    assert network.name == "lenet5-mnist"
    content = np.load(shared_data / "mnist" / "test.npz")
    images = torch.from_numpy(content["images"][::5])[:, None].expand(-1, 3, -1, -1)
    features, logits = network.run(images)
    assert features.shape == (2000, 84)
    assert float(features.min()) == 0
    assert (logits.argmax(1).numpy() == content["labels"][::5]).mean() > 0.98


def test_the_lenet_takes_colour_and_any_size() -> None:
    network = LeNet().eval()
    grey = torch.randint(0, 256, (2, 1, 28, 28), dtype=torch.uint8).expand(-1, 3, -1, -1)
    assert [tuple(part.shape) for part in network(grey)] == [(2, 84), (2, 10)]
    alike = network.convnet["c1"](nn.functional.interpolate(grey[:, :1] / 255, (32, 32), mode="bilinear"))
    seen: list[Tensor] = []
    network.convnet["c1"].register_forward_hook(lambda module, inputs, output: seen.append(output))
    network(grey)
    torch.testing.assert_close(seen[0], alike)
    assert network(torch.zeros(1, 3, 64, 48, dtype=torch.uint8))[0].shape == (1, 84)


def test_a_damaged_lenet_is_one_line(tmp_path: Path) -> None:
    torch.save({"convnet.c5.weight": torch.zeros(1), "fc.f6.weight": torch.zeros(1)}, tmp_path / "net.pth")
    with pytest.raises(SourceError, match=r"net.pth is no LeNet-5: Error"):
        load_network(tmp_path / "net.pth", torch.device("cpu"))


def test_only_inception_makes_a_sifid() -> None:
    assert PatchNetwork("Inception", "Conv2d_4a_3x3", lambda x: x).metric == "SIFID (Inception, Conv2d_4a_3x3)"
    assert PatchNetwork("LPIPS alex", "relu1", lambda x: x).metric == "patch FD (LPIPS alex, relu1)"
    assert FeatureNetwork("lenet5-mnist", "", "", lambda x: (x, x)).patches is None


def test_inceptions_patches_are_seen_at_the_images_own_size() -> None:
    from torch_fidelity.feature_extractor_inceptionv3 import BasicConv2d

    network = nn.Module()
    network.Conv2d_1a_3x3 = BasicConv2d(3, 32, kernel_size=3, stride=2)
    network.Conv2d_2a_3x3 = BasicConv2d(32, 32, kernel_size=3)
    network.Conv2d_2b_3x3 = BasicConv2d(32, 64, kernel_size=3, padding=1)
    network.MaxPool_1 = nn.MaxPool2d(kernel_size=3, stride=2)
    network.Conv2d_3b_1x1 = BasicConv2d(64, 80, kernel_size=1)
    network.Conv2d_4a_3x3 = BasicConv2d(80, 192, kernel_size=3)
    network.eval()
    pixels = torch.randint(0, 256, (1, 3, 41, 121), dtype=torch.uint8)
    found = before_second_pooling(network, pixels)
    assert found.shape == (1, 192, 6, 26)
    # Another pixel changes what is said of the patches around it alone.
    other = pixels.clone()
    other[..., 20, 60] ^= 255
    changed = (before_second_pooling(network, other) != found).any(1)[0].nonzero()
    assert 0 < len(changed) <= 36  # 23 pixels, every fourth of which has a position
    assert (changed.float().mean(0) - torch.tensor([2.25, 12.25])).abs().max() < 1


@pytest.mark.data
@pytest.mark.parametrize(("net", "file", "width"), [("alex", "alexnet", 64), ("vgg", "vgg16", 128)])
def test_lpips_networks_see_patches(shared_data: Path, net: str, file: str, width: int) -> None:
    weights = shared_data / "lpips" / f"lpips_{file}_v0.1_fp16.safetensors"
    lpips: LPIPS = load_lpips(Perceptual(net=net, weights=str(weights)))[0]  # type: ignore[arg-type]
    patches = patches_of_lpips(lpips)
    found = patches.run(torch.randint(0, 256, (1, 3, 40, 64), dtype=torch.uint8))
    assert found.shape[:2] == (1, width)
    assert found.shape[2] * found.shape[3] > 100
