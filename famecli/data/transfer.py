"""One file over http(s) or from a file:// address, with retries that go on where a connection broke."""

import contextlib
import time
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO
from urllib.parse import unquote, urlsplit

from famecli.errors import IntegrityError, UnavailableError

if TYPE_CHECKING:
    from requests import Response

TIMEOUT_S = 30
TRIES = 5
# Doubled from try to try.
FIRST_PAUSE_S = 0.5
CHUNK_BYTES = 1 << 16


class _UnfinishedError(Exception):
    """A transfer that may go on with another request; its text is the reason."""


def host_of(url: str) -> str:
    """Return whom a URL asks, for messages: host and port without user and password, or `this machine`."""
    return urlsplit(url).netloc.rpartition("@")[2] or "this machine"


def transfer(url: str, file: BinaryIO, size_bytes: int | None = None) -> None:
    """Write what is at `url` to the empty `file`.

    Asked again, up to `TRIES` times with growing pauses, are servers that answer with a status of 5xx or 429,
    fall silent or break the connection; each time only for what is missing, where the server knows how. One
    that cannot be reached at all is not.

    Args:
        url: `http://`, `https://` or `file://`.
        file: Takes the bytes; may hold anything after an error.
        size_bytes: Of the whole, where known: a transfer stops when it is longer.

    Raises:
        UnavailableError: There is nothing, or nothing whole, to be had there.
        IntegrityError: It is longer than `size_bytes`.
        OSError: `file` cannot be written.
    """
    target = _Target(file, size_bytes)
    if urlsplit(url).scheme == "file":
        _copy(Path(unquote(urlsplit(url).path)), target)
        return
    reason = ""
    for attempt in range(TRIES):
        if attempt:
            time.sleep(FIRST_PAUSE_S * 2 ** (attempt - 1))
        try:
            _request(url, target)
            return
        except _UnfinishedError as problem:
            reason = str(problem)
    raise UnavailableError(f"{host_of(url)}: {reason}, {TRIES} times")


class _Target:
    """A file for pooch to write to that takes no more than it should, and answers of servers in its turn.

    Args:
        file: Where the bytes go.
        limit_bytes: None for no limit.
    """

    def __init__(self, file: BinaryIO, limit_bytes: int | None) -> None:
        self.file = file
        self.limit_bytes = limit_bytes
        self.have_bytes = 0
        self.length_known = True

    def write(self, chunk: bytes) -> None:
        if self.limit_bytes is not None and self.have_bytes + len(chunk) > self.limit_bytes:
            raise IntegrityError("more bytes than the file has")
        self.file.write(chunk)
        self.have_bytes += len(chunk)

    def flush(self) -> None:
        self.file.flush()

    def restart(self) -> None:
        """Forget what was written."""
        self.file.seek(0)
        self.file.truncate()
        self.have_bytes = 0

    def accept(self, response: "Response") -> None:
        """Make ready for the body of a response: for what is missing, or for everything again."""
        self.length_known = "Content-Length" in response.headers
        part = response.headers.get("Content-Range", "")
        if response.status_code == 416 and self.have_bytes:
            self.restart()
            raise _UnfinishedError("status 416")
        if response.status_code == 206 and not part.startswith(f"bytes {self.have_bytes}-"):
            self.restart()
            raise _UnfinishedError("another part than asked for")
        if 200 <= response.status_code < 300 and response.status_code != 206:
            # Also where only a part was asked for: not every server knows how.
            self.restart()


def _request(url: str, target: _Target) -> None:
    """Ask for the bytes that `target` has not got.

    Raises:
        _UnfinishedError: It is worth asking again.
        UnavailableError: It is not.
    """
    import pooch
    import requests

    # Else requests would unpack a .gz file that a server declares as compressed in transit.
    headers = {"Accept-Encoding": "identity"}
    if target.have_bytes:
        headers["Range"] = f"bytes={target.have_bytes}-"
    with contextlib.ExitStack() as responses:

        def on_response(response: requests.Response, **_: object) -> None:
            # Pooch leaves the connection open when a download fails.
            responses.enter_context(response)
            target.accept(response)

        download = pooch.HTTPDownloader(
            chunk_size=CHUNK_BYTES, timeout=TIMEOUT_S, headers=headers, hooks={"response": on_response}
        )
        try:
            download(url, target, None)
        except requests.RequestException as error:
            if _may_pass(error):
                raise _UnfinishedError(_reason(error)) from error
            raise UnavailableError(f"{host_of(url)}: {_reason(error)}") from error
    if not target.length_known and target.limit_bytes is not None and target.have_bytes < target.limit_bytes:
        # Without a length, the end of a connection that breaks looks like that of the file.
        raise _UnfinishedError(f"{target.have_bytes} of {target.limit_bytes} bytes")


def _may_pass(error: Exception) -> bool:
    """Return whether the next try may fare better: not where the server is not there or says no."""
    import requests
    from urllib3.exceptions import NewConnectionError

    response = getattr(error, "response", None)
    if response is not None:
        return bool(response.status_code >= 500 or response.status_code == 429)
    cause = getattr(error.args[0], "reason", None) if error.args else None
    if isinstance(error, requests.ConnectTimeout) or isinstance(cause, NewConnectionError):
        return False
    passing = (
        requests.ConnectionError,
        requests.Timeout,
        requests.exceptions.ChunkedEncodingError,
        requests.exceptions.ContentDecodingError,
    )
    never = (requests.exceptions.ProxyError, requests.exceptions.SSLError)
    return isinstance(error, passing) and not isinstance(error, never)


def _reason(error: Exception) -> str:
    """Return what went wrong in a few words; what requests says of itself can run over many lines."""
    response = getattr(error, "response", None)
    return f"status {response.status_code}" if response is not None else type(error).__name__


def _copy(source: Path, target: _Target) -> None:
    try:
        file = source.open("rb")
    except (OSError, ValueError) as error:
        raise UnavailableError(f"cannot read {source}: {getattr(error, 'strerror', error)}") from error
    with file:
        while chunk := _read(file, source):
            target.write(chunk)


def _read(file: BinaryIO, source: Path) -> bytes:
    try:
        return file.read(CHUNK_BYTES)
    except OSError as error:
        raise UnavailableError(f"cannot read {source}: {error.strerror}") from error
