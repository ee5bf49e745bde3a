"""What is read off a graph: paths, roles, attentions, channels, widths, and shifts that norms remove."""

from .attention import Attention, find_attention
from .channels import Layout, channels_reaching, layout_of
from .roles import LayerUse, Role, merge_roles, roles
from .widths import Width, Widths, widths_in

__all__ = [
    "Attention",
    "LayerUse",
    "Layout",
    "Role",
    "Width",
    "Widths",
    "channels_reaching",
    "find_attention",
    "layout_of",
    "merge_roles",
    "roles",
    "widths_in",
]
