"""Images: which files a person means, from their content to pixels, and in which order a run sees them."""

from .folders import passed_over_text
from .images import Images, open_images
from .stream import (
    Batch,
    Sample,
    Shares,
    Stream,
    batches,
    first_batches,
    first_told,
    image_tensor,
    open_data,
    order_of,
    told_batches,
)

__all__ = [
    "Batch",
    "Images",
    "Sample",
    "Shares",
    "Stream",
    "batches",
    "first_batches",
    "first_told",
    "image_tensor",
    "open_data",
    "open_images",
    "order_of",
    "passed_over_text",
    "told_batches",
]
