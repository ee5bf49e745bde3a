"""Memory formats: what `model.to(memory_format=...)` asks of the images that a model takes, and not of its kernels."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor


def keeping_layout(function: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """What `nn.Module._apply` is to do to a kernel: as `function`, but its elements stay in their order.

    Torch gives a memory format to every parameter of four or five axes, and refuses a format of images for five.
    """

    def apply(tensor: Tensor) -> Tensor:
        try:
            result = function(tensor)
        except RuntimeError as error:
            if "rank" not in str(error):
                raise
            return function(tensor.reshape(-1)).reshape(tensor.shape)
        moved = result.shape == tensor.shape and tensor.is_contiguous() and not result.is_contiguous()
        return result.contiguous() if moved else result

    return apply
