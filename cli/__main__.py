"""`python -m prismify.cli`, which torchrun and `accelerate launch` start."""

from .main import app

app()
