"""What is read off a graph: paths from data to results, roles, attentions, channels, and shifts that norms remove."""

from .attention import Attention, find_attention
from .channels import Layout, channels_reaching, layout_of
from .roles import LayerUse, Role, merge_roles, roles

__all__ = [
    "Attention",
    "LayerUse",
    "Layout",
    "Role",
    "channels_reaching",
    "find_attention",
    "layout_of",
    "merge_roles",
    "roles",
]
