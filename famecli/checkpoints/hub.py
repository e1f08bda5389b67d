"""Repositories of the Hugging Face Hub: hash and size of a file, and uploads. No torch here."""

import dataclasses
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import TypeVar

from famecli import __version__
from famecli.checkpoints.card import model_card
from famecli.checkpoints.description import Description
from famecli.checkpoints.urls import HUB, SHA256, HubFile, Located, hub_address
from famecli.data.fetch import LARGEST_BYTES, PATIENCE_S, SLOWEST_BYTES_PER_S, host_of, unless_late
from famecli.errors import FameError, IntegrityError, UnavailableError

T = TypeVar("T")
LIBRARY = "huggingface_hub"
LOG_IN = "hf auth login, or set HF_TOKEN to a token that may do this"


def headers() -> dict[str, str]:
    """Return the headers of a request to the hub, with the user's token if the library knows one."""
    if not _is_installed():
        return {}
    from huggingface_hub.utils import build_hf_headers

    return build_hf_headers(library_name="famecli", library_version=__version__)


def locate(place: HubFile) -> Located:
    """Return the commit of a revision, and the hash and the size that the repository records of a file.

    Raises:
        UnavailableError: The library is not installed, the hub does not answer, has no such file for this
            user, or one beyond `LARGEST_BYTES`.
    """
    _check_library()
    from huggingface_hub import get_hf_file_metadata

    with _explained(place):
        found = _in_time(lambda: get_hf_file_metadata(place.url, headers=headers()), PATIENCE_S)
    commit, sha256, size_bytes = found.commit_hash or "", found.etag or "", found.size
    if not (commit.isalnum() and SHA256.fullmatch(sha256) and size_bytes):
        raise UnavailableError(
            f"{host_of(place.url)} records no commit, SHA-256 or size of {place}",
            "it records them for large files only; or add the file's hash: #sha256=HEX",
        )
    _check_size(place, size_bytes)
    pinned = dataclasses.replace(place, revision=commit)
    return Located(str(pinned), place.name, sha256, size_bytes)


def push(
    described: Description, place: HubFile, *, licence: str | None = None, private: bool | None = None
) -> Located:
    """Write a checkpoint and its card into a repository, in one commit; the repository is made if missing.

    Args:
        described: Description of the checkpoint.
        place: Repository, name of the file there, and branch, which is made if missing.
        licence: Identifier of the licence, for the card; None to name no licence.
        private: Whether a new repository is private; None for the default of its organisation.

    Returns:
        The file, as the repository describes it after the commit.

    Raises:
        UnavailableError: The library is not installed, the hub does not answer, or refuses, or the file is
            beyond `LARGEST_BYTES`.
        IntegrityError: The file in the repository has another hash.
    """
    _check_library()
    from huggingface_hub import CommitOperationAdd, HfApi

    _check_size(place, described.header.file_bytes)
    api = HfApi(endpoint=hub_address(), library_name="famecli", library_version=__version__)
    card = model_card(described, place.repository, licence)
    operations = [
        CommitOperationAdd(place.file, described.path),
        CommitOperationAdd("README.md", card.encode()),
    ]

    def commit() -> str:
        api.create_repo(place.repository, private=private, exist_ok=True)
        if place.revision != "main":
            api.create_branch(place.repository, branch=place.revision, exist_ok=True)
        message = f"{described.name}, sha256 {described.sha256[:12]}"
        done = api.create_commit(
            place.repository, operations, commit_message=message, revision=place.revision
        )
        return done.oid

    with _explained(place):
        oid = _in_time(commit, PATIENCE_S + described.header.file_bytes / SLOWEST_BYTES_PER_S)
    found = locate(dataclasses.replace(place, revision=oid))
    if found.sha256 != described.sha256:
        raise IntegrityError(f"{found.address}: sha256 {found.sha256[:12]}, not {described.sha256[:12]}")
    return found


def _is_installed() -> bool:
    """Return whether the library is installed, after switching its telemetry off by default."""
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    return find_spec(LIBRARY) is not None


def _check_library() -> None:
    """Check that the library is installed, and silence it: it shows bars, and URLs of failed requests."""
    if not _is_installed():
        raise UnavailableError(f"{LIBRARY} is not installed", "pip install 'famecli[hub]'")
    from huggingface_hub.utils import disable_progress_bars, logging

    disable_progress_bars()
    logging.set_verbosity(logging.CRITICAL)


def _check_size(place: HubFile, size_bytes: int) -> None:
    """Check that a file is within `LARGEST_BYTES`; a larger one would be refused when it is fetched."""
    if size_bytes > LARGEST_BYTES:
        raise UnavailableError(f"{place}: {size_bytes:,} bytes, more than {LARGEST_BYTES >> 20:,} MiB")


def _in_time(request: Callable[[], T], limit_s: float) -> T:
    end_s = time.monotonic() + limit_s
    late = f"{host_of(hub_address())}: not done in {limit_s:.0f} s"
    return unless_late(request, lambda: late if time.monotonic() > end_s else "")


@contextmanager
def _explained(place: HubFile) -> Iterator[None]:
    """Raise errors of the library as UnavailableError, without their text: it could hold a token."""
    from huggingface_hub import errors

    host, what, page = host_of(hub_address()), place.repository, f"{hub_address()}/{place.repository}"
    try:
        yield
        return
    except FameError:
        raise
    except errors.GatedRepoError:
        message, hint = f"{what} has terms to accept first", f"accept them at {page}; {LOG_IN}"
    except errors.RepositoryNotFoundError:
        message, hint = f"{host} has no {what}, or it is private", f"check its name; {LOG_IN}"
    except errors.RevisionNotFoundError:
        message, hint = f"{what} has no revision {place.revision}", f"see {page}/commits"
    except errors.EntryNotFoundError:
        message = f"{what} has no {place.file} at {place.revision}"
        hint = f"name another file: hf://{what}/FILE@{place.revision}"
    # The library and its parts have no common class of errors, and trip over malformed answers.
    except Exception as error:
        # An upload wraps the answer.
        answer = next(
            (each for each in (error, error.__cause__) if isinstance(each, errors.HfHubHTTPError)), None
        )
        reason = type(error).__name__ if answer is None else f"status {answer.response.status_code}"
        message = f"{host}: no proper answer about {what} ({reason})"
        hint = "check the network, or run again later"
        if reason in ("status 401", "status 403"):
            message, hint = f"{host} refuses this token for {what} ({reason})", LOG_IN
        elif hub_address() != HUB:
            hint += "; a server without Xet needs HF_HUB_DISABLE_XET=1"
    raise UnavailableError(message, hint)
