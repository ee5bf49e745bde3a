"""What a step minimises: reconstruction, KL, LPIPS, an adversary, a teacher; and when a loss has gone astray."""

from .discriminator import Judged, PatchDiscriminator, mean_logit, set_trainable, smallest_side
from .divergence import Divergence
from .perceptual import LPIPS, load_lpips
from .teaching import Answering, Answers, answer, check_pair, distances, matched_layers

__all__ = [
    "LPIPS",
    "Answering",
    "Answers",
    "Divergence",
    "Judged",
    "PatchDiscriminator",
    "answer",
    "check_pair",
    "distances",
    "load_lpips",
    "matched_layers",
    "mean_logit",
    "set_trainable",
    "smallest_side",
]
