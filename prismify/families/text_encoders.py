"""transformers' text encoders, as pipelines hold them: a tokenizer and an encoder side by side."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import SourceError, one_line

#: The folders of a diffusers pipeline.
TOKENIZER, ENCODER = "tokenizer", "text_encoder"


class TextEncoder(nn.Module):
    """Texts to tokens' states, frozen: (B, L, width) of a list of B texts, cut and padded to one length.

    Args:
        tokenizer, encoder: transformers'.
    """

    def __init__(self, tokenizer: Any, encoder: nn.Module) -> None:
        super().__init__()
        self.tokenizer, self.encoder = tokenizer, encoder.eval().requires_grad_(False)
        length = getattr(encoder.config, "max_position_embeddings", None) or 512
        self.length = min(int(tokenizer.model_max_length), int(length))

    @torch.no_grad()
    def forward(self, texts: list[str]) -> Tensor:
        device = next(self.encoder.parameters()).device
        tokens = self.tokenizer(
            texts, padding="max_length", max_length=self.length, truncation=True, return_tensors="pt"
        )
        states: Tensor = self.encoder(tokens.input_ids.to(device))[0]
        return states.float()


def open_text_encoder(folder: Path) -> TextEncoder:
    """The text encoder of a pipeline's folder; nothing is downloaded, and no code of the folder's runs.

    Raises:
        SourceError: the folder has none, or transformers is not there or cannot read it.
    """
    for part in (TOKENIZER, ENCODER):
        if not (folder / part).is_dir():
            raise SourceError(f"{folder} has no {part}: name the folder of a pipeline that has both")
    try:
        transformers = importlib.import_module("transformers")
    except ImportError as error:
        raise SourceError("text encoders need transformers: pip install transformers") from error
    offline: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    try:
        config = transformers.AutoConfig.from_pretrained(folder / ENCODER, **offline)
        name = (config.architectures or ["?"])[0]
        made: Any = getattr(transformers, name, None)
        is_model = isinstance(made, type) and issubclass(made, transformers.PreTrainedModel)
        if not is_model:
            raise SourceError(f"{folder / ENCODER} names {name}, which is no model of transformers")
        encoder = made.from_pretrained(folder / ENCODER, **offline).float()
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder / TOKENIZER, **offline)
    except SourceError:
        raise
    except Exception as error:  # whatever transformers raises
        raise SourceError(f"{folder}: its text encoder cannot be read ({one_line(error)})") from error
    return TextEncoder(tokenizer, encoder)
