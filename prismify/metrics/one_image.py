"""Pictures of models of a single image, measured against that image: what patches they have, and how they differ."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Protocol

import torch
from torch import Tensor

from .distances import Gaussian, Spread, frechet, gaussian
from .diversity import PairwiseLPIPS, PixelDeviation, grey, is_no_memory, size_text
from .judges import NO_LPIPS, Judges
from .networks import PatchNetwork, patches_of_lpips
from .samples import Counted, Measured, page_of

_DIVERSITY, _DEVIATION = "LPIPS diversity", "pixel deviation"
_NO_PATCHES = "no network for patches: give --lpips FILE, or FID's InceptionV3 by --features FILE"
_WHOLE = "it judges whole pictures: give --lpips FILE, or FID's InceptionV3 by --features FILE"


class Sums(Protocol):
    """What a measurement keeps of pictures that it sees one at a time."""

    def add(self, picture: Tensor) -> None:
        """Take a picture in, uint8 (1, 3, H, W)."""

    def result(self) -> Spread | str:
        """The measurement; or why there is none, in words that go on after the model's name."""


def measure_one_image(
    samples: Mapping[str, Iterable[Tensor]],
    reference: Tensor,
    judges: Judges,
    *,
    device: torch.device | str = "cpu",
    shown: int = 8,
    watch: Callable[[str], None] = lambda text: None,
) -> Measured:
    """The patches, the LPIPS diversity and the per-pixel deviation of every model's pictures.

    One picture is looked at at a time, and only sums are kept.

    Args:
        samples: model -> batches of as many pictures as any other's, uint8 (B, 3, H, W).
        reference: the image, uint8 (1, 3, H, W).
        watch: is told what is being done.
    """
    reference = reference.to(device)
    rows: dict[str, dict[str, Spread]] = {}
    missing = {} if judges.lpips is not None else {_DIVERSITY: NO_LPIPS}
    if judges.network is not None and judges.network.patches is None:
        missing[f"patch FD ({judges.network.name})"] = _WHOLE
    elif not _patch_networks(judges):
        missing["patch FD"] = _NO_PATCHES
    pages = [reference.permute(0, 2, 3, 1).cpu().numpy()]
    count = 0
    for name, batches in samples.items():
        watch(f"patches of {name}")
        counted = Counted(batches, device, shown)
        all_sums = _all_sums(judges, reference)
        for picture in (batch[i : i + 1] for batch in counted for i in range(len(batch))):
            for sums in all_sums.values():
                sums.add(picture)
        rows[name] = {}
        for metric, sums in all_sums.items():
            found = sums.result()
            if isinstance(found, Spread):
                rows[name][metric] = found
            else:
                missing[metric] = f"{name} {found}"
        count = counted.count
        pages.append(counted.page)
    return Measured(rows, {}, missing, count, 1, page_of(pages))


class PatchDistance:
    """The Fréchet distance of a picture's patches to the reference's, over pictures (SIFID; Shaham et al., 2019).

    Args:
        reference: uint8 (1, 3, H, W).
    """

    def __init__(self, network: PatchNetwork, reference: Tensor) -> None:
        self.network = network
        self.wanted = self._distribution(reference)
        self.distances: list[float] = []
        self.trouble = "" if self.wanted else f"is compared with an image of {size_text(reference)}, too small for it"

    def add(self, picture: Tensor) -> None:
        """Take a picture in, uint8 (1, 3, H, W)."""
        found = None if self.wanted is None else self._distribution(picture)
        if found is not None and self.wanted is not None:
            self.distances.append(frechet(found, self.wanted))
        elif not self.trouble:
            self.trouble = f"has pictures of {size_text(picture)}, too small for it"

    def result(self) -> Spread | str:
        """The mean over pictures, or why there is none."""
        if self.trouble:
            return self.trouble
        values = torch.tensor(self.distances, dtype=torch.float64)
        deviation = float(values.std()) if len(values) > 1 else None
        return Spread(float(values.mean()), deviation, f"{len(values)} images")

    @torch.no_grad()
    def _distribution(self, picture: Tensor) -> Gaussian | None:
        """Of a picture's patches; None where it is too small to have two."""
        try:
            found = self.network.run(picture)
        except RuntimeError as error:
            if is_no_memory(error):
                raise
            return None
        vectors = found.flatten(2)[0].T
        return gaussian(vectors) if len(vectors) > 1 else None


def _all_sums(judges: Judges, reference: Tensor) -> dict[str, Sums]:
    """Metric -> what measures it."""
    if judges.lpips is not None:
        judges.lpips.to(reference.device)
    found: dict[str, Sums] = {one.metric: PatchDistance(one, reference) for one in _patch_networks(judges)}
    if judges.lpips is not None:
        found[f"{_DIVERSITY} ({judges.lpips.net})"] = PairwiseLPIPS(judges.lpips)
    found[_DEVIATION] = PixelDeviation(float(grey(reference).std()))
    return found


def _patch_networks(judges: Judges) -> list[PatchNetwork]:
    ours = [] if judges.network is None or judges.network.patches is None else [judges.network.patches]
    return ours if judges.lpips is None else [*ours, patches_of_lpips(judges.lpips)]
