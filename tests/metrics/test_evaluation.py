"""Metrics against their definitions, and named after what they were measured by."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from prismify.errors import DataError, SourceError
from prismify.metrics.classifiers import CifarResNet
from prismify.metrics.evaluation import evaluate, per_image
from prismify.metrics.judges import Judges
from prismify.metrics.networks import FeatureNetwork, load_network
from prismify.metrics.pairs import padded_reconstruction, reduction
from prismify.training.data import Images, Stream, open_images
from prismify.training.schema import Data

ROOT = Path(__file__).parents[2]


class Blurring(nn.Module):
    """An autoencoder without weights: halves the size and doubles it again."""

    def __init__(self, strength: float = 1.0) -> None:
        super().__init__()
        self.strength = nn.Parameter(torch.tensor(strength))

    def encode(self, x: Tensor) -> Tensor:
        return nn.functional.avg_pool2d(x, 2)

    def decode(self, z: Tensor) -> Tensor:
        return self.strength * nn.functional.interpolate(z, scale_factor=2)


@pytest.fixture
def stream() -> Stream:
    """40 crops of a real picture."""
    whole = np.asarray(open_images(Data(path=str(ROOT / "examples" / "images"))).picture(0).convert("RGB"))
    crops = [whole[4 * i : 4 * i + 32, 5 * i : 5 * i + 32] for i in range(40)]
    return Stream(Images("crops", [str(i) for i in range(40)], crops.__getitem__), Data(), 0)


@pytest.fixture
def network() -> FeatureNetwork:
    return FeatureNetwork("resnet8-test", "file.th", "0" * 64, CifarResNet(1).eval().requires_grad_(False))


def test_psnr_and_ssim_are_what_their_definitions_give() -> None:
    from torchmetrics.functional.image import peak_signal_noise_ratio

    target = torch.rand(3, 3, 16, 16)
    output = (target + 0.1 * torch.randn_like(target)).clamp(-0.2, 1.3)
    found = per_image(output, target, (0.0, 1.0), None)
    for i in range(3):
        clipped = output[i : i + 1].clamp(0, 1)
        assert float(found["PSNR"][i]) == pytest.approx(
            float(peak_signal_noise_ratio(clipped, target[i : i + 1], data_range=1.0)), abs=1e-4
        )
    wide = per_image(output * 2 - 1, target * 2 - 1, (-1.0, 1.0), None)
    assert torch.allclose(wide["PSNR"], found["PSNR"], atol=1e-4)  # the range is the model's affair
    assert torch.allclose(wide["SSIM"], found["SSIM"], atol=1e-4)
    same = per_image(target, target, (0.0, 1.0), None)
    assert float(same["SSIM"].min()) == pytest.approx(1)


def test_every_metric_has_its_spread_and_the_networks_name(stream: Stream, network: FeatureNetwork) -> None:
    judges = Judges(network=network, splits=4, subsets=5, subset_size=10)
    models = {"dim": Blurring(0.5), "bright": Blurring()}
    found = evaluate(models, stream, judges, batch_size=16, shown=3)
    assert found.images == 40
    assert set(found.rows) == {"originals", "dim", "bright"}
    assert set(found.rows["dim"]) == {
        "PSNR",
        "SSIM",
        "IS (resnet8-test, N=40)",
        "KID (resnet8-test, N=40)",
        "FD (resnet8-test, N=40)",
    }
    assert not [name for row in found.rows.values() for name in row if "Inception" in name or "FID" in name]
    assert found.missing == {"LPIPS": "no weights: give --lpips FILE"}
    for name in ("PSNR", "SSIM"):
        assert found.rows["bright"][name].mean > found.rows["dim"][name].mean
    assert found.rows["bright"]["FD (resnet8-test, N=40)"].mean < found.rows["dim"]["FD (resnet8-test, N=40)"].mean
    assert found.rows["dim"]["PSNR"].deviation
    assert found.rows["dim"]["KID (resnet8-test, N=40)"].over == "5 subsets of 10"
    assert found.pictures.shape == (3 * 34 + 2, 3 * 34 + 2, 3)
    assert found.parameters == {"dim": 1, "bright": 1}


def test_the_distances_of_a_set_to_itself_are_nothing(stream: Stream, network: FeatureNetwork) -> None:
    class Same(Blurring):
        def encode(self, x: Tensor) -> Tensor:
            return x

        def decode(self, z: Tensor) -> Tensor:
            return z

    found = evaluate({"same": Same()}, stream, Judges(network=network, splits=4, subsets=5, subset_size=15))
    row = found.rows["same"]
    assert row["FD (resnet8-test, N=40)"].mean == pytest.approx(0, abs=1e-3)
    assert abs(row["KID (resnet8-test, N=40)"].mean) < 0.05
    assert row["IS (resnet8-test, N=40)"].mean == pytest.approx(found.rows["originals"]["IS (resnet8-test, N=40)"].mean)
    assert row["PSNR"].mean > 100


def test_without_weights_metrics_are_said_to_be_missing(stream: Stream) -> None:
    found = evaluate({"m": Blurring()}, stream, Judges())
    assert set(found.rows["m"]) == {"PSNR", "SSIM"}
    assert set(found.missing) == {"LPIPS", "IS", "KID", "FD"}


def test_a_model_that_changes_the_size_is_one_line(stream: Stream) -> None:
    class Halved(Blurring):
        def decode(self, z: Tensor) -> Tensor:
            return z

    with pytest.raises(DataError, match=r"half returns \(3, 16, 16\) for images of \(3, 32, 32\): choose another"):
        evaluate({"half": Halved()}, stream, Judges())


def test_only_fids_own_network_makes_an_fid(tmp_path: Path) -> None:
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    inception = FeatureNetwork("Inception", "", "", lambda x: (x, x))
    assert inception.metric("FD", 50_000) == "FID (Inception, N=50000)"
    assert inception.metric("FD", 49_999) == "FD (Inception, N=49999)"  # of fewer pictures it is another number
    empty = FeatureExtractorInceptionV3.__new__(FeatureExtractorInceptionV3)
    assert isinstance(empty, nn.Module)
    # The right architecture with other weights is still another network.
    torch.save({"Mixed_7c.branch_pool.conv.weight": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(SourceError, match=r"other.pth is not torch-fidelity's InceptionV3"):
        load_network(tmp_path / "other.pth", torch.device("cpu"))
    named = FeatureNetwork("inception-01234567", "", "", lambda x: (x, x))
    assert named.metric("FD", 50_000) == "FD (inception-01234567, N=50000)"


def test_other_weights_are_refused(tmp_path: Path) -> None:
    torch.save({"weight": torch.zeros(1)}, tmp_path / "linear.pt")
    with pytest.raises(SourceError, match=r"holds neither FID's InceptionV3 .* nor a CIFAR-10 ResNet"):
        load_network(tmp_path / "linear.pt", torch.device("cpu"))


def test_pictures_of_any_size_are_padded_and_cut_back() -> None:
    model = Blurring()
    assert reduction(model, 3, torch.device("cpu")) == 2
    image = torch.rand(1, 3, 17, 21)
    assert padded_reconstruction(model, image, 2).shape == image.shape
    even = image[..., :16, :20]
    assert torch.equal(padded_reconstruction(model, even, 2), model.decode(model.encode(even)))


@pytest.mark.data
@pytest.mark.parametrize(("file", "name"), [("resnet20-12fca82f.th", "resnet20"), ("resnet56-4bfd9763.th", "resnet56")])
def test_the_cifar_networks_know_cifar(shared_data: Path, file: str, name: str) -> None:
    network = load_network(shared_data / "cifar10_resnet" / file, torch.device("cpu"))
    assert network.name == f"{name}-cifar10"
    assert len(network.sha256) == 64
    content = np.load(shared_data / "cifar10" / "train_first4000.npz")
    images = torch.from_numpy(content["images"][:200]).permute(0, 3, 1, 2)
    features, logits = network.run(images)
    assert features.shape == (200, 64)
    right = (logits.argmax(1).numpy() == content["labels"][:200]).mean()
    assert right > 0.98  # the lossless originals it was trained on


def test_tars_of_one_image(tmp_path: Path) -> None:
    from PIL import Image

    content = io.BytesIO()
    Image.new("RGB", (8, 8)).save(content, format="PNG")
    with tarfile.open(tmp_path / "one.tar", "w") as tar:
        entry = tarfile.TarInfo("x.png")
        entry.size = content.tell()
        content.seek(0)
        tar.addfile(entry, content)
    images = open_images(Data(path=str(tmp_path / "one.tar")))
    found = evaluate({"m": Blurring()}, Stream(images, Data(), 0), Judges())
    assert found.rows["m"]["PSNR"].deviation is None
