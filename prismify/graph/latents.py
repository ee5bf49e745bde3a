"""What an autoencoder's `encode` and `decode` return, read as mean, log-variance, losses of its own, and images."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.distributions import Distribution, Independent, Normal

from ..errors import RecipeError
from ..generators import seed_generators
from .isolation import cloned_tensors, undisturbed

#: Members by name, in small letters and without underscores.
_MEANS = ("mean", "mu", "loc", "embedding")
#: Name -> the log-variance, of what stands under it.
_SPREADS: dict[str, Callable[[Tensor], Tensor]] = {
    **dict.fromkeys(("logvar", "logvariance", "logcovariance", "lnvar", "logsigma2", "logsigmasq"), lambda t: t),
    **dict.fromkeys(("logstd", "logsigma", "logscale", "logdeviation"), lambda t: 2 * t),
    **dict.fromkeys(("std", "sigma", "scale", "stddev", "deviation"), lambda t: 2 * t.log()),
    **dict.fromkeys(("var", "variance", "sigma2"), lambda t: t.log()),
}
_LATENTS = ("latentdist", "posterior", "dist", "distribution", "latents", "latent", "z", "quantized", "quantised",
            "quant", "zq", "encoded", "encodings", "encoding", "codes", "code", "sample")  # fmt: skip
_IMAGES = ("sample", "reconstruction", "recon", "logits", "lasthiddenstate")
_WANTED = (
    "return the latents, (mean, logvar), (latents, loss), a torch.distributions.Normal, or a dict or dataclass with "
    "mean and logvar, or with latents, and the losses by name"
)
#: Of three tensors alike, which one a model draws from the other two; decided once for a model.
_DRAWN: WeakKeyDictionary[nn.Module, int] = WeakKeyDictionary()


class Latents(NamedTuple):
    """What `encode` returned.

    Args:
        mean: the latents, or their mean where the model gives a distribution: shape (B, ...).
        log_variance: like `mean`; None where the model has none.
        kl, loss: what the model itself counts besides, as scalars with a gradient: a KL divergence of another kind, or
            without a log-variance beside it; and any other, such as a codebook's.
    """

    mean: Tensor
    log_variance: Tensor | None = None
    kl: Tensor | None = None
    loss: Tensor | None = None


class _UnclearError(Exception):
    """Why something is not to be read as latents."""


def encode(model: Any, images: Tensor) -> Latents:
    """The latents of images, whatever form the model's `encode` gives them.

    Args:
        images: shape (B, C, H, W).

    Raises:
        RecipeError: what it returns can be read in no way, or in several; the message says what is wanted.
    """
    encoded = model.encode(images)
    try:
        return _read(encoded, images.shape[0], lambda: _drawn(model, images))
    except _UnclearError as error:
        what = f"{type(model).__name__}.encode returns {_described(encoded)}"
        raise RecipeError(f"{what}, {error}: {_WANTED}") from None


def decode(model: Any, latents: Tensor) -> tuple[Tensor, Tensor | None]:
    """Images from latents, and the loss that a model counts while it decodes (a quantiser's), where it has one.

    Raises:
        RecipeError: it returns no tensor.
    """
    decoded = model.decode(latents)
    images = first_tensor(decoded, f"{type(model).__name__}.decode")
    members = {} if isinstance(decoded, (Tensor, Distribution)) else _members(decoded) or _places(decoded)
    return images, _sum([value for value in members.values() if _is_loss(value, images.shape[0])])


def first_tensor(output: Any, name: str) -> Tensor:
    """The tensor in a model's output: itself, a distribution's mean, its `sample`, or the first that is no scalar.

    Raises:
        RecipeError: there is none.
    """
    if isinstance(output, Tensor):
        return output
    if isinstance(output, Distribution):
        return output.mean
    members = _members(output) or _places(output)
    named = [members[key] for key in _IMAGES if isinstance(members.get(key), Tensor)]
    found = [value for value in members.values() if isinstance(value, Tensor)]
    found = named or [t for t in found if t.dim() > 1 and t.is_floating_point()] or found
    if not found:
        raise RecipeError(f"{name} returns {_described(output)}, in which no recipe finds a tensor")
    return found[0]


def latents_text(latents: Latents) -> str:
    """How what `encode` returned was read, in words."""
    shape = "x".join(map(str, latents.mean.shape[1:]))
    parts = ["latents of" if latents.log_variance is None else "mean and log-variance of latents of"]
    parts[0] += f" {shape}"
    parts += ["a KL divergence"] * (latents.kl is not None) + ["a loss of its own"] * (latents.loss is not None)
    return " and ".join(parts)


def _read(value: Any, batch: int, drawn: Callable[[], int]) -> Latents:
    if isinstance(value, Tensor):
        if not value.is_floating_point():
            raise _UnclearError("which are indices and no latents")
        return Latents(value)
    if isinstance(value, Distribution):
        return _of_distribution(value)
    members = _members(value)
    if members is not None:
        return _of_members(value, members, batch, drawn)
    if isinstance(value, Sequence) and not isinstance(value, (str, bytes)):
        return _of_places(list(value), batch, drawn)
    raise _UnclearError("which no recipe reads")


def _of_distribution(value: Distribution) -> Latents:
    inner: Any = value
    while isinstance(inner, Independent):
        inner = inner.base_dist
    if not isinstance(inner, Normal):
        raise _UnclearError("which is no normal distribution with a deviation for each number")
    return Latents(inner.loc, 2 * inner.scale.log())


def _of_members(value: Any, members: dict[str, Any], batch: int, drawn: Callable[[], int]) -> Latents:
    """From a dict, a dataclass, a named tuple or an object, by the names of what it holds."""
    kl, loss = _named_losses(members, batch)
    mean = next((members[n] for n in _MEANS if _is_latent(members.get(n))), None)
    spread = next((make(members[n]) for n, make in _SPREADS.items() if _is_latent(members.get(n))), None)
    if mean is not None and spread is not None:
        return Latents(mean, spread, None, loss)
    read = []
    for member in (members[n] for n in _LATENTS if n in members):
        try:
            read.append(_read(member, batch, drawn))
        except _UnclearError:
            continue
    gaussian = next((found for found in read if found.log_variance is not None), None)
    if gaussian is None and spread is not None:
        raise _UnclearError("which has a log-variance and no mean")
    if gaussian is None and mean is not None:
        return Latents(mean, None, kl, loss)
    if gaussian is not None or read:
        found = gaussian or read[0]
        return found._replace(kl=None if gaussian else _sum([kl, found.kl]), loss=_sum([loss, found.loss]))
    for name in ("mode", "mean", "sample"):
        method = None if isinstance(value, Mapping) else getattr(value, name, None)
        if callable(method) and isinstance(made := method(), Tensor):
            return Latents(made, None, kl, loss)
    alone = [member for member in members.values() if _is_latent(member)]
    if len(alone) != 1:
        raise _UnclearError("in which no name tells the latents")
    return Latents(alone[0], None, kl, loss)


def _of_places(values: list[Any], batch: int, drawn: Callable[[], int]) -> Latents:
    """From a tuple or list, by what stands in it; indices, and what has no gradient and is one number, pass."""
    loss = _sum([value for value in values if _is_loss(value, batch)])
    kl: Tensor | None = None
    gaussians: list[Latents] = []
    for value in values:
        if isinstance(value, (Tensor, str, bytes, int, float)) or value is None:
            continue
        members = _members(value)
        if members is not None and not isinstance(value, Distribution):
            more = _named_losses(members, batch)
            kl, loss = _sum([kl, more[0]]), _sum([loss, more[1]])
        try:
            found = _read(value, batch, drawn)
        except _UnclearError:
            continue
        if found.log_variance is not None or len(values) == 1:
            gaussians.append(found)
    if len(gaussians) == 1:
        return gaussians[0]._replace(loss=gaussians[0].loss if gaussians[0].loss is not None else loss)
    tensors = [value for value in values if _is_latent(value) and not _is_number(value, batch)]
    tensors = [t for t in tensors if t.shape[0] == batch] or tensors  # one-hot codes have a row a position
    if len(tensors) == 1 and not gaussians:
        return Latents(tensors[0], None, kl, loss)
    alike = len({t.shape for t in tensors}) == 1 and not gaussians
    quantised = any(isinstance(v, Tensor) and not v.is_floating_point() for v in values)
    if alike and len(tensors) == 2 and quantised:
        return Latents(tensors[0], None, kl, loss)
    if alike and len(tensors) == 2 and not any(_is_number(v, batch) for v in values):
        return Latents(*tensors)
    if alike and len(tensors) == 3 and not quantised:
        mean, log_variance = (t for i, t in enumerate(tensors) if i != drawn())
        return Latents(mean, log_variance)  # a number beside these is their KL divergence, which is computed anyway
    raise _UnclearError("in which several may be the latents" if tensors else "in which nothing is latents")


def _drawn(model: nn.Module, images: Tensor) -> int:
    """Which of three tensors alike is the sample: the one that changes from call to call, or the mean's own equal."""
    if model not in _DRAWN:
        if isinstance(images, FakeTensor):
            raise RuntimeError("only values tell which of three tensors is drawn from the others")
        _DRAWN[model] = _seen_drawn(model, images)
    return _DRAWN[model]


def _seen_drawn(model: nn.Module, images: Tensor) -> int:
    for training in (True, False):
        runs = []
        try:
            for seed in range(2):
                with undisturbed(model, training=training), cloned_tensors(model), torch.no_grad():
                    seed_generators(seed)
                    found = model.encode(images)  # type: ignore[operator]
                runs.append([v for v in found if _is_latent(v) and not _is_number(v, images.shape[0])])
        except Exception:
            continue  # batch norm refuses one image in training
        changed = [i for i, (a, b) in enumerate(zip(*runs, strict=True)) if not torch.equal(a, b)]
        equal = [i for i in (1, 2) if torch.equal(runs[0][0], runs[0][i])]
        if len(changed) == 1:
            return changed[0]
        if not changed and len(equal) == 1:
            return 0 if equal == [1] else 2
    raise _UnclearError("in which no tensor is drawn from two others")


def _named_losses(members: dict[str, Any], batch: int) -> tuple[Tensor | None, Tensor | None]:
    """The KL divergence, and the sum of all other losses, among named members."""
    losses = {name: value for name, value in members.items() if _is_loss(value, batch)}
    kl = [value for name, value in losses.items() if "kl" in name]
    return _sum(kl), _sum([value for name, value in losses.items() if "kl" not in name])


def _members(value: Any) -> dict[str, Any] | None:
    """The members of a dict, dataclass, named tuple or object by their plain names; None for what has places."""
    if isinstance(value, Mapping):
        found = dict(value)
    elif hasattr(value, "_asdict"):
        found = value._asdict()
    elif isinstance(value, (Tensor, Sequence, int, float)) or value is None:
        return None
    else:
        known = (*_MEANS, "logvar", "log_var", "std", *_LATENTS, *_IMAGES)  # properties are in no __dict__
        names = dict.fromkeys([*getattr(value, "__dict__", ()), *known])
        found = {name: getattr(value, name, None) for name in names}
        found = {name: member for name, member in found.items() if not callable(member)}
    return {_plain(str(name)): member for name, member in found.items() if member is not None}


def _plain(name: str) -> str:
    """A name in small letters, without underscores, and without what it is a mean or a deviation of."""
    plain = name.lower().replace("_", "")
    bare = [plain.removeprefix(of) for of in ("z", "q", "latent", "posterior")] + [plain.removesuffix("z")]
    return next((text for text in bare if text in _MEANS or text in _SPREADS), plain)


def _places(value: Any) -> dict[str, Any]:
    return {str(i): v for i, v in enumerate(value)} if isinstance(value, (tuple, list)) else {}


def _is_latent(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point() and value.dim() > 1


def _is_number(value: Any, batch: int) -> bool:
    """Whether a value is one floating number, or one a sample."""
    floating = isinstance(value, Tensor) and value.is_floating_point()
    return floating and (value.dim() == 0 or tuple(value.shape) in ((1,), (batch,)))


def _is_loss(value: Any, batch: int) -> bool:
    """Whether a value is a number that training can lower; counts and perplexities have no gradient."""
    return _is_number(value, batch) and value.requires_grad


def _sum(values: Sequence[Tensor | None]) -> Tensor | None:
    found = [value.mean() for value in values if value is not None]
    return torch.stack(found).sum() if found else None


def _described(value: Any) -> str:
    """A value's kind, and the shapes in it."""
    if isinstance(value, Tensor):
        return f"a tensor {str(value.dtype).removeprefix('torch.')} {tuple(value.shape)}"
    members = _members(value) if not isinstance(value, Distribution) else None
    items = list((members or _places(value)).items())
    texts = [
        (f"{name}: " if members else "") + (str(tuple(v.shape)) if isinstance(v, Tensor) else type(v).__name__)
        for name, v in items[:6]
    ]
    more = ", ..." if len(items) > 6 else ""
    return f"a {type(value).__name__}" + (f" ({', '.join(texts)}{more})" if texts else "")
