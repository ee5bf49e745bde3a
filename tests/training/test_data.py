"""Every kind of image source, cut alike, in an order that is the same however the work is split."""

from __future__ import annotations

import io
import pickle
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from prismify.errors import DataError
from prismify.training.data import (
    Images,
    Shares,
    Stream,
    batches,
    image_tensor,
    open_data,
    open_images,
    order_of,
    told_batches,
)
from prismify.training.schema import Data


def packed(pictures: Path, target: Path, mode: str, part: slice = slice(None)) -> Path:
    with tarfile.open(target, mode) as tar:  # type: ignore[call-overload]
        for path in sorted(pictures.rglob("*.png"))[part]:
            tar.add(path, str(path.relative_to(pictures)))
            note = tarfile.TarInfo(f"{path.stem}.json")
            note.size = 2
            tar.addfile(note, io.BytesIO(b"{}"))
    return target


def pixels(images: Images) -> torch.Tensor:
    return torch.from_numpy(np.stack([np.asarray(images.picture(i).convert("RGB")) for i in range(len(images))]))


@pytest.fixture
def sources(pictures: Path, tmp_path: Path) -> dict[str, str]:
    folder = open_images(Data(path=str(pictures)))
    np.savez(tmp_path / "all.npz", images=pixels(folder).numpy(), labels=np.zeros(len(folder)))
    shards = tmp_path / "shards"
    shards.mkdir()
    for number in range(3):
        packed(pictures, shards / f"s-{number:03d}.tar", "w", slice(16 * number, 16 * number + 16))
    batch = {"data": pixels(folder)[:, :16, :16].repeat(1, 2, 2, 1).permute(0, 3, 1, 2).flatten(1).numpy()}
    root = tmp_path / "cifar" / "cifar-10-batches-py"
    root.mkdir(parents=True)
    (root / "x").write_bytes(pickle.dumps(batch))
    return {
        "folder": str(pictures),
        "tar": str(packed(pictures, tmp_path / "all.tar", "w")),
        "compressed tar": str(packed(pictures, tmp_path / "all.tar.xz", "w:xz")),
        "npz": str(tmp_path / "all.npz"),
        "shards": str(shards / "s-{000..002}.tar"),
        "folder of shards": str(shards),
    }


def test_every_source_holds_the_same_images(sources: dict[str, str]) -> None:
    first = pixels(open_images(Data(path=sources["folder"])))
    assert first.shape == (48, 24, 24, 3)
    assert len(first.unique(dim=0)) == 48
    for name, path in sources.items():
        assert torch.equal(pixels(open_images(Data(path=path))), first), name


def test_a_folder_lists_what_torchvisions_image_folder_lists(pictures: Path) -> None:
    from torchvision.datasets import ImageFolder

    theirs = sorted(str(Path(path).relative_to(pictures)) for path, _ in ImageFolder(str(pictures)).samples)
    assert list(open_images(Data(path=str(pictures))).names) == theirs


def test_cifar10_as_torchvision_unpacks_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision.datasets import CIFAR10

    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    values = np.random.default_rng(0).integers(0, 256, (5, 4, 3072), dtype=np.uint8)
    names = [name for name, _ in CIFAR10.train_list]
    for name, data in zip(names, values, strict=True):
        (folder / name).write_bytes(pickle.dumps({"data": data, "labels": [0] * 4}))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": ["a"]}))
    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda *a: True)  # the real archive's MD5
    images = open_images(Data(path=str(tmp_path)))
    assert len(images) == 20
    assert np.array_equal(np.asarray(images.picture(5)), values[1, 1].reshape(3, 32, 32).transpose(1, 2, 0))


def test_select_takes_names(pictures: Path) -> None:
    assert len(open_images(Data(path=str(pictures), select="a/*"))) == 24
    with pytest.raises(DataError, match=r"no image matches select 'c/\*'; names look like 'a/00.png'"):
        open_images(Data(path=str(pictures), select="c/*"))


@pytest.mark.parametrize("crop", ["center", "random"])
def test_images_are_cut_to_size_and_range(pictures: Path, crop: str) -> None:
    picture = Image.open(sorted(pictures.rglob("*.png"))[0])
    data = Data(path=str(pictures), size=16, crop=crop, flip=True, range=(0.0, 1.0))
    one = image_tensor(picture.resize((40, 20)), data, seed=3)
    assert one.shape == (3, 16, 16)
    assert one.dtype == torch.float32
    assert 0 <= float(one.min()) < float(one.max()) <= 1
    assert torch.equal(one, image_tensor(picture.resize((40, 20)), data, seed=3))
    different = {image_tensor(picture.resize((40, 20)), data, s).sum().item() for s in range(8)}
    assert len(different) >= (4 if crop == "random" else 1)
    grey = image_tensor(picture, Data(path="", channels=1), None)
    assert grey.shape == (1, 24, 24)
    assert float(grey.min()) >= -1


def test_a_flip_mirrors_half_of_the_images(pictures: Path) -> None:
    picture = Image.open(sorted(pictures.rglob("*.png"))[0])
    data = Data(path="", flip=True)
    plain = image_tensor(picture, data, None)
    made = [image_tensor(picture, data, seed) for seed in range(200)]
    mirrored = sum(torch.equal(m, plain.flip(-1)) for m in made)
    assert mirrored + sum(torch.equal(m, plain) for m in made) == 200
    assert 70 < mirrored < 130


@pytest.mark.parametrize(("parts", "processes"), [(1, 2), (2, 1), (2, 4)])
def test_a_step_has_the_same_images_however_it_is_split(pictures: Path, parts: int, processes: int) -> None:
    stream, _ = open_data(Data(path=str(pictures), size=16, crop="random", flip=True, validation=5), 7)
    whole = batches(stream, Shares(16, 1, 1, 0), 0)
    split = [batches(stream, Shares(16, parts, processes, rank), 0) for rank in range(processes)]
    for _ in range(6):  # more than two passes over the images
        pieces = [next(one) for _ in range(parts) for one in split]
        assert torch.equal(torch.cat(pieces), next(whole))


@pytest.mark.parametrize("workers", [0, 2])
def test_a_row_goes_on_where_it_stopped(pictures: Path, workers: int) -> None:
    data = Data(path=str(pictures), size=16, crop="random", flip=True, validation=0, workers=workers)
    stream, held_out = open_data(data, 0)
    assert held_out is None
    shares = Shares(10, 1, 1, 0)
    row = batches(stream, shares, 0)
    first = [next(row) for _ in range(9)]
    again = batches(stream, shares, 6)
    assert all(torch.equal(a, next(again)) for a in first[6:])


@pytest.mark.parametrize("form", ["folder", "tar", "npz"])
def test_labels_go_with_their_images(tmp_path: Path, form: str) -> None:
    for number, name in enumerate(("cat", "dog", "eel")):
        for index in range(4):
            path = tmp_path / "p" / "train" / name / f"{index}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (8, 8), (50 * number, 0, 0)).save(path)
    (tmp_path / "p" / "train" / "cat" / "0.png").write_bytes(b"broken")
    where = tmp_path / "p"
    if form == "tar":
        where = tmp_path / "p.tar"
        with tarfile.open(where, "w") as tar:
            tar.add(tmp_path / "p", ".")
    if form == "npz":
        where, labels = tmp_path / "p.npz", np.arange(12) // 4
        np.savez(
            where, images=np.tile((50 * labels).astype(np.uint8)[:, None, None, None], (1, 8, 8, 3)), labels=labels
        )
    stream, held_out = open_data(Data(path=str(where), validation=3, skip_damaged=True, range=(0, 255)), 0)
    assert stream.images.classes == (("0", "1", "2") if form == "npz" else ("cat", "dog", "eel"))
    for (images, labels, _), _ in zip(told_batches(stream, Shares(8, 1, 1, 0), 0), range(4), strict=False):
        assert labels is not None
        assert torch.equal(images[:, 0, 0, 0], 50.0 * labels)
    assert held_out is not None
    assert held_out.images.labels is not None
    assert len(held_out.images.labels) == 3


def test_images_that_no_folder_sorts_have_no_labels(pictures: Path) -> None:
    assert open_images(Data(path=str(pictures / "a"))).labels is None
    stream, _ = open_data(Data(path=str(pictures / "a"), validation=0), 0)
    assert next(told_batches(stream, Shares(2, 1, 1, 0), 0)).labels is None


def test_shards_are_no_classes_and_folders_within_them_are(tmp_path: Path, pictures: Path) -> None:
    paths = sorted(pictures.rglob("*.png"))
    for number in range(2):
        with tarfile.open(tmp_path / f"flat-{number}.tar", "w") as flat:
            for path in paths[number::2]:
                flat.add(path, path.name)
        with tarfile.open(tmp_path / f"deep-{number}.tar", "w") as deep:
            for path in paths[number::2]:
                deep.add(path, str(path.relative_to(pictures)))
    assert open_images(Data(path=f"{tmp_path}/flat-{{0..1}}.tar")).labels is None
    assert open_images(Data(path=f"{tmp_path}/deep-{{0..1}}.tar")).classes == ("a", "b")


def test_images_to_measure_on_have_the_class_numbers_of_those_to_train_on(tmp_path: Path) -> None:
    for place, names in (("train", "abc"), ("held", "ac"), ("other", "ad")):
        for name in names:
            (tmp_path / place / name).mkdir(parents=True)
            Image.new("RGB", (8, 8)).save(tmp_path / place / name / "0.png")
    for place, wanted in (("held", [0, 2]), ("other", None)):
        data = Data(path=str(tmp_path / "train"), validation_path=str(tmp_path / place), validation=9)
        held = open_data(data, 0)[1]
        assert held is not None
        assert (sorted(held.images.labels) if held.images.labels else None) == wanted


def test_labels_that_are_no_classes_are_none(tmp_path: Path) -> None:
    for number, labels in enumerate(
        (
            np.zeros(2, int),
            np.full(3, -1),
            np.full(3, 0.5),
            np.array(["a", "b", "c"]),
            np.full(3, 1.7e9),
            np.array([{}, 1, "a"], dtype=object),
        )
    ):
        path = tmp_path / f"{number}.npz"
        np.savez(path, images=np.zeros((3, 4, 4), np.uint8), labels=labels)
        assert open_images(Data(path=str(path))).labels is None


def test_each_pass_takes_every_image_once_in_an_order_of_its_own() -> None:
    one, other = order_of(48, 0, 0), order_of(48, 0, 1)
    assert sorted(one.tolist()) == sorted(other.tolist()) == list(range(48))
    assert not torch.equal(one, other)
    assert not torch.equal(one, order_of(48, 1, 0))


def test_held_out_images_are_not_trained_on(pictures: Path) -> None:
    stream, held_out = open_data(Data(path=str(pictures), size=16, validation=8), 0)
    assert held_out is not None
    assert len(stream.images) == 40
    assert set(stream.images.names).isdisjoint(held_out.images.names)
    again = open_data(Data(path=str(pictures), size=16, validation=8), 99)[1]
    assert again is not None
    assert list(again.images.names) == list(held_out.images.names)  # whatever the seed
    seen = torch.cat(list(held_out.in_order(3)))
    shared = torch.cat([b for rank in range(2) for b in held_out.in_order(3, rank, 2)])
    assert torch.equal(seen.sum((1, 2, 3)).sort().values, shared.sum((1, 2, 3)).sort().values)


def test_validation_images_may_lie_elsewhere(pictures: Path, sources: dict[str, str]) -> None:
    data = Data(path=str(pictures), select="a/*", validation_select="b/*", validation=10)
    stream, held_out = open_data(data, 0)
    assert held_out is not None
    assert (len(stream.images), len(held_out.images)) == (24, 10)
    assert all(name.startswith("b/") for name in held_out.images.names)
    stream, held_out = open_data(Data(path=str(pictures), validation_path=sources["npz"], validation=10), 0)
    assert held_out is not None
    assert (len(stream.images), len(held_out.images)) == (48, 10)
    stream, held_out = open_data(Data(path=str(pictures), validation_path=sources["npz"], validation=0), 0)
    assert (len(stream.images), held_out) == (48, None)


WRONG = {
    "missing": ("nowhere", "nowhere: no such file or folder"),
    "empty": ("empty", "empty holds no images"),
    "no images": ("text.txt", "text.txt is neither a folder, nor a tar, nor an npz"),
    "broken npz": ("broken.npz", "broken.npz is damaged or no npz"),
    "wrong npz": ("float.npz", "images are float64 (3, 4, 4), expected uint8"),
    "broken tar": ("broken.tar", "broken.tar is damaged or no tar"),
    "missing shard": ("s-{0..3}.tar", "s-0.tar: no such shard"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_data_is_one_line(tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").mkdir()
    for file in ("text.txt", "broken.npz", "broken.tar"):
        (tmp_path / file).write_text("hello " * 200)
    np.savez(tmp_path / "float.npz", images=np.zeros((3, 4, 4)))
    path, message = WRONG[name]
    with pytest.raises(DataError) as caught:
        open_images(Data(path=str(tmp_path / path)))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_too_few_images_to_hold_some_out(pictures: Path) -> None:
    with pytest.raises(DataError, match=r"holds 48 images, and data.validation=64 of them are held out"):
        open_data(Data(path=str(pictures)), 0)
    with pytest.raises(DataError, match=r"data.path is not set"):
        open_images(Data())


@pytest.mark.parametrize("count", [1, 3])
def test_a_batch_of_more_than_all_images_passes_over_them_again(tmp_path: Path, count: int) -> None:
    for index in range(count):
        Image.new("RGB", (8, 8), (50 * index, 0, 0)).save(tmp_path / f"{index}.png")
    stream, _ = open_data(Data(path=str(tmp_path), size=8, validation=0), 0)
    row = batches(stream, Shares(16, 1, 1, 0), 0)
    seen = torch.cat([next(row) for _ in range(count)])[:, 0, 0, 0]
    assert seen.unique(return_counts=True)[1].tolist() == [16] * count
    with pytest.raises(DataError, match=f"holds {count} images, and data.validation={count} .* at most {count - 1}$"):
        open_data(Data(path=str(tmp_path), size=8, validation=count), 0)


def test_a_worker_that_is_started_anew_reads_the_same(pictures: Path) -> None:
    stream, _ = open_data(Data(path=str(pictures), size=16, crop="random", flip=True, validation=2), 3)
    again = pickle.loads(pickle.dumps(stream))  # as `spawn` hands it over
    assert all(torch.equal(again[position].image, stream[position].image) for position in (0, 5, 100))


def test_images_of_different_sizes_need_one(tmp_path: Path) -> None:
    for side in (16, 20):
        Image.new("RGB", (side, side), (side, 0, 0)).save(tmp_path / f"{side}.png")
    stream = Stream(open_images(Data(path=str(tmp_path))), Data(), 0)
    with pytest.raises(DataError, match=r"images differ in size .*: set data.size"):
        next(batches(stream, Shares(2, 1, 1, 0), 0))
    assert [tuple(b.shape) for b in stream.in_order(8)] == [(1, 3, 16, 16), (1, 3, 20, 20)]


@pytest.mark.parametrize("workers", [0, 1])
def test_a_damaged_image_is_named_or_skipped(tmp_path: Path, pictures: Path, workers: int) -> None:
    import shutil

    shutil.copytree(pictures, tmp_path / "p")
    broken = tmp_path / "p" / "a" / "10.png"
    broken.write_bytes(broken.read_bytes()[:200])
    stream, _ = open_data(Data(path=str(tmp_path / "p"), validation=0, workers=workers), 0)
    with pytest.raises(DataError, match=r"a/10.png cannot be read as an image .*data.skip_damaged=true"):
        for _, _ in zip(batches(stream, Shares(8, 1, 1, 0), 0), range(6), strict=False):
            pass
    stream, _ = open_data(Data(path=str(tmp_path / "p"), validation=0, workers=workers, skip_damaged=True), 0)
    seen = [b for b, _ in zip(batches(stream, Shares(8, 1, 1, 0), 0), range(6), strict=False)]
    assert sum(len(b) for b in seen) == 48
