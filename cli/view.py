"""`prismify view DIR`: a page on this machine on which an autoencoder or a denoiser is tried."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import PrismifyError, SourceError
from . import options as o
from .evaluate import RangeOption, SizeOption, autoencoder, device_of
from .following import next_step
from .terminal import one_line_errors, steps

if TYPE_CHECKING:
    import torch
    from gradio import Blocks

    from ..diffusion.opening import Opened as Denoiser
    from ..training.schema import Data

_LOOPBACK = "127.0.0.1"
_MODEL_HELP = "A converted folder, a run's folder, a diffusers folder, or the name of a trained model that comes along."


@one_line_errors
def view(
    model: Annotated[str, typer.Argument(metavar="DIR", help=_MODEL_HELP, show_default=False)],
    size: SizeOption = None,
    range_: RangeOption = None,
    port: Annotated[int, typer.Option(metavar="N", min=0, max=65535, help="0 takes any that is free.")] = 0,
    host: Annotated[
        str, typer.Option(metavar="ADDRESS", help="Where it listens; any but 127.0.0.1 lets others in.")
    ] = _LOOPBACK,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    trust_code: o.TrustCodeOption = False,
    import_: o.ImportOption = None,
    allow: o.AllowOption = None,
    trust_pickle: o.TrustOption = False,
) -> None:
    """Try a model in a browser: drop a picture and see its reconstruction, or sample with a seed and so many steps."""
    o.import_all(import_)
    with steps() as begin:
        begin("loading libraries")
        from ..checkpoint import Trust
        from ..diffusion.opening import is_denoiser, open_denoiser

        _gradio()
        where = device_of(device)
        begin(f"opening {model}")
        if is_denoiser(model):
            trust = Trust(trust_code, tuple(allow or ()), trust_pickle, named=frozenset({model}))
            page, follows = denoiser_page(open_denoiser(model, trust), model, where), ("sample", model, "-o", "samples")
        else:
            opened = autoencoder(model, trust_code, allow or (), trust_pickle)
            data = _data_of(opened.data, size, range_)
            page = autoencoder_page(opened.model.to(where), model, data, where)
            follows = ("evaluate", model, "--data", "IMAGES")
    if host != _LOOPBACK:
        typer.echo(f"whoever reaches {host} can use the model", err=True)
    try:
        page.launch(
            server_name=host,
            server_port=port or None,
            share=False,
            quiet=True,
            prevent_thread_lock=True,
            footer_links=[],
            # Fonts of the machine: the page asks nobody else for anything.
            theme=_gradio().themes.Default(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]),
        )
    except OSError as error:
        raise SourceError(f"no page on {host}:{port}: {error}") from error
    typer.echo(f"{model} is on {page.local_url} until Ctrl-C")
    next_step(*follows)
    page.block_thread()


def autoencoder_page(model: Any, name: str, data: Data, device: torch.device) -> Blocks:
    """A picture, its reconstruction and the difference, side by side, with their PSNR."""
    from ..metrics.pairs import compared

    gradio = _gradio()

    def see(picture: Any) -> tuple[Any, Any, Any, str]:
        if picture is None:
            return None, None, None, ""
        try:
            found = compared(model, picture, data, device)
        except PrismifyError as error:
            raise gradio.Error(str(error), print_exception=False) from error
        height, width = found.original.shape[:2]
        text = f"{found.decibels:.2f} dB, {width}×{height} pixels"
        return found.original, found.reconstruction, found.difference, text

    page: Blocks = gradio.Blocks(title=f"prismify: {name}", analytics_enabled=False)
    with page:
        gradio.Markdown(f"## {_plain(name)}")
        with gradio.Row():
            given = gradio.Image(type="pil", label="drop a picture", sources=["upload", "clipboard"])
            shown = [gradio.Image(label=text, format="png") for text in ("original", "reconstruction", "difference")]
        said = gradio.Textbox(label="PSNR", interactive=False)
        given.change(see, given, [*shown, said], api_name="see")
    return page


def denoiser_page(opened: Denoiser, name: str, device: torch.device) -> Blocks:
    """Pictures from a seed, a number of steps and, where the model was told classes, a class."""
    from ..diffusion.making import Wanted, make_pictures, steps_and_sampler

    gradio = _gradio()
    classes = list(opened.trained.classes or ())
    usual, _ = steps_and_sampler(opened.trained, Wanted())

    def draw(seed: float, asked: float, count: float, label: str | None = None) -> list[Any]:
        chosen = label if label in classes else None
        wanted = Wanted(count=int(count), steps=int(asked), seed=int(seed), label=chosen, batch_size=int(count))
        try:
            return [picture for batch, _ in make_pictures(opened, wanted, device) for picture in batch]
        except PrismifyError as error:
            raise gradio.Error(str(error), print_exception=False) from error

    page: Blocks = gradio.Blocks(title=f"prismify: {name}", analytics_enabled=False)
    with page:
        gradio.Markdown(f"## {_plain(name)}")
        with gradio.Row():
            seed = gradio.Number(0, label="seed", precision=0, minimum=0)
            asked = gradio.Slider(1, max(100, usual), usual, step=1, label="steps")
            count = gradio.Slider(1, 16, 4, step=1, label="pictures")
        given = [seed, asked, count]
        if classes:
            given.append(gradio.Dropdown(["in turn", *classes], value="in turn", label="class"))
        pictures = gradio.Gallery(label="samples", format="png", columns=4)
        gradio.Button("sample", variant="primary").click(draw, given, pictures, api_name="draw")
    return page


def _gradio() -> Any:
    """The library, told to keep what it learns to itself.

    Raises:
        SourceError: it is not installed.
    """
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    try:
        import gradio
    except ImportError as error:
        raise SourceError("a page needs gradio: pip install 'prismify[view]'") from error
    return gradio


def _data_of(data: Data | None, size: int | None, range_: str | None) -> Data:
    """How pictures are cut: as the model's run did, but for what the person says; whole where nobody does."""
    from dataclasses import replace

    from ..training.schema import Data
    from .evaluate import _range

    settings = Data(size=size) if data is None else replace(data, size=size, flip=False)
    return settings if range_ is None else replace(settings, range=_range(range_))


def _plain(text: str) -> str:
    """A name as Markdown takes it for words."""
    return "".join(f"\\{c}" if c in r"\`*_{}[]()#+-.!<>|~$" else c for c in Path(text).name or text)
