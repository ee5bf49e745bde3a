"""Every row of the zoo."""

from __future__ import annotations

from . import autoencoders, backbones, generators, transformers, unets

GROUPS = {
    "Autoencoders (diffusers)": autoencoders.ROWS,
    "UNets (diffusers)": unets.ROWS,
    "Transformers (diffusers)": transformers.ROWS,
    "GANs, restoration, flows, single images, CompVis": generators.ROWS,
    "Backbones (timm, torchvision)": backbones.ROWS,
}
ROWS = tuple(row for rows in GROUPS.values() for row in rows)
