"""Models on a hub: what a name like `owner/name` means, and how it becomes a folder here. Nothing fetched is run."""

from .fetching import fetched
from .names import HubName, hub_name
from .refusals import hub_errors
from .wanted import is_weights, needed_files

__all__ = [
    "HubName",
    "fetched",
    "hub_errors",
    "hub_name",
    "is_weights",
    "needed_files",
]
