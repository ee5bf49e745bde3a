"""What a hub refuses, or cannot be asked, in one line."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from ...errors import OutputError, PrismifyError, one_line
from .names import HubName


@contextmanager
def hub_errors(name: HubName, kind: type[PrismifyError]) -> Iterator[None]:
    """Turn whatever `huggingface_hub` raises into one line of prismify's, without its bars and warnings meanwhile.

    Args:
        name: what is asked for, for the message.
        kind: of the errors.
    """
    from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    shown = not are_progress_bars_disabled()
    if shown:
        disable_progress_bars()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the client about its own transport
            yield
    except PrismifyError:
        raise
    except Exception as error:  # the client raises its own, the transport's and the system's
        raise kind(_said(error, name, pushing=kind is OutputError)) from error
    finally:
        if shown:
            enable_progress_bars()


def _said(error: BaseException, name: HubName, *, pushing: bool) -> str:
    """What went wrong, and what helps."""
    from huggingface_hub import constants, errors

    host = constants.ENDPOINT.partition("://")[2]
    chain = list(_chain(error))

    def among(*kinds: type[BaseException]) -> bool:
        return any(isinstance(one, kinds) for one in chain)

    if among(errors.GatedRepoError):
        return f"{name}: {host} gives it to those only who accepted its terms there, and are logged in (hf auth login)"
    if among(errors.RepositoryNotFoundError):
        return (
            f"{name}: no such file or folder here, and no such repository at {host}, or a private one that your token "
            "does not open (hf auth login)"
        )
    if among(errors.RevisionNotFoundError):
        return f"{name}: {host} has the repository {name.repository}, but no revision {name.revision or 'main'!r} of it"
    if among(errors.OfflineModeIsEnabled) or constants.HF_HUB_OFFLINE:
        return (
            f"{name}: no such file or folder here, nor in the hub's cache, and HF_HUB_OFFLINE is set: it is loaded "
            "once with a network first"
        )
    status = next((one.response.status_code for one in chain if isinstance(one, errors.HfHubHTTPError)), None)
    if status in (401, 403):
        return f"{name}: {host} asks for a token that may do this (hf auth login, or HF_TOKEN); it answered {status}"
    if status is not None:
        return f"{name}: {host} answered with the error {status}; try again later"
    if among(errors.LocalEntryNotFoundError, OSError) or any(_is_of_the_transport(one) for one in chain):
        reason = next((e for e in reversed(chain) if type(e).__module__ in ("builtins", "socket", "ssl")), chain[-1])
        here = "" if pushing else "no such file or folder here, and "
        return f"{name}: {here}{host} cannot be reached ({one_line(reason, 120)})"
    return f"{name}: {one_line(error)}"


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error and what it came from."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def _is_of_the_transport(error: BaseException) -> bool:
    """Whether the library below the client raised it; which one that is depends on the client's release."""
    return type(error).__module__.partition(".")[0] in (
        "httpx",
        "httpx2",
        "httpcore",
        "httpcore2",
        "requests",
        "urllib3",
    )
