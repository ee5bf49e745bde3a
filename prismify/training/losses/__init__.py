"""What a step minimises: reconstruction, KL, LPIPS, an adversary, a teacher; and when a loss has gone astray."""

from .discriminator import Judged, PatchDiscriminator, mean_logit, set_trainable, smallest_side
from .divergence import Divergence
from .perceptual import LPIPS, load_lpips, unit_length
from .remembering import Remembering
from .teaching import (
    Answering,
    Answers,
    answer,
    asked_of_student,
    asked_of_teacher,
    check_pair,
    distances,
    everything_of,
    matched_layers,
    output_of,
    replaced_layers,
)
from .terms import (
    adaptive_weight,
    hinge_discriminator_loss,
    hinge_generator_loss,
    kl_loss,
    reconstruction_loss,
    relative_error,
    weighted_sum,
)

__all__ = [
    "LPIPS",
    "Answering",
    "Answers",
    "Divergence",
    "Judged",
    "PatchDiscriminator",
    "Remembering",
    "adaptive_weight",
    "answer",
    "asked_of_student",
    "asked_of_teacher",
    "check_pair",
    "distances",
    "everything_of",
    "hinge_discriminator_loss",
    "hinge_generator_loss",
    "kl_loss",
    "load_lpips",
    "matched_layers",
    "mean_logit",
    "output_of",
    "reconstruction_loss",
    "relative_error",
    "replaced_layers",
    "set_trainable",
    "smallest_side",
    "unit_length",
    "weighted_sum",
]
