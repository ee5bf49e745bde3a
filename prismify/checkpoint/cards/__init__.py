"""The card of a saved folder, its README.md: what was replaced, how it measures, what it is licensed under."""

from .card import card_text, write_card
from .figures import Figures, evaluation_figures
from .licences import Licence, front_matter, original_licence
from .marks import CARD_NAME, edited_card, is_as_written

__all__ = [
    "CARD_NAME",
    "Figures",
    "Licence",
    "card_text",
    "edited_card",
    "evaluation_figures",
    "front_matter",
    "is_as_written",
    "original_licence",
    "write_card",
]
