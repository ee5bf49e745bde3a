"""What goes to a hub: a model or a folder as one commit, with its card, and without what tells of this machine."""

from .push import Pushed, push_to_hub

__all__ = ["Pushed", "push_to_hub"]
