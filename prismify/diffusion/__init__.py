"""Denoisers: how noise is added, what a model is asked to predict, and how pictures are sampled from it.

Models of any library are called alike (`denoiser`), diffusers' schedulers hold the mathematics (`noising`, `sampling`).
"""

from .denoiser import Denoiser
from .noising import Noising
from .sampling import SAMPLERS, sample

__all__ = ["SAMPLERS", "Denoiser", "Noising", "sample"]
