"""What a model is told about classes, read off its parts."""

from __future__ import annotations

from torch import nn

#: In the names of tables of classes, whatever the library.
_WORDS = ("class", "label")


def rows_of_classes(model: nn.Module) -> int | None:
    """How many classes a model's table holds, one for "none" included; None where it has no table to be found."""
    for name, module in model.named_modules():
        if isinstance(module, nn.Embedding) and any(word in name.lower() for word in _WORDS):
            return module.num_embeddings
    return None
