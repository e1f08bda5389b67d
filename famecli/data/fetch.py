"""Downloads: a file takes its name only once it is whole and its hash is right."""

import hashlib
import http.client
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, wait
from pathlib import Path
from typing import BinaryIO, TypeVar
from urllib.parse import unquote, urlsplit

from famecli.errors import FameError, IntegrityError, UnavailableError
from famecli.files import partial_file, remove_leftovers

T = TypeVar("T")
TIMEOUT_S = 30
TRIES = 5
# The pause doubles after each try.
FIRST_PAUSE_S = 0.5
CHUNK_BYTES = 1 << 16
# Largest download of a file whose size is not pinned in the package.
LARGEST_BYTES = 1 << 30
# A file may take `PATIENCE_S`, and another second per `SLOWEST_BYTES_PER_S` received, all tries together.
PATIENCE_S = 300.0
SLOWEST_BYTES_PER_S = 20_000
# An unfinished download of this age was left by a process that was killed.
ABANDONED_S = 86_400.0


def say_nothing(message: str) -> None:
    """Drop a message: for callers that show none."""


def is_offline(flag: bool) -> bool:
    """Return whether downloads are off: by `flag`, or by FAME_OFFLINE or HF_HUB_OFFLINE."""
    values = (os.environ.get(name, "").lower() for name in ("FAME_OFFLINE", "HF_HUB_OFFLINE"))
    return flag or any(value in ("1", "true", "yes", "on") for value in values)


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal digits.

    Raises:
        UnavailableError: The file cannot be read.
    """
    return _digest(path, hashlib.sha256)


def git_blob(path: Path) -> str:
    """Return the git blob hash of a file: the SHA-1 of its length and its content.

    Raises:
        UnavailableError: The file cannot be read.
    """
    return _digest(path, lambda: hashlib.sha1(b"blob %d\0" % path.stat().st_size, usedforsecurity=False))


def _digest(path: Path, start: "Callable[[], hashlib._Hash]") -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, start).hexdigest()
    except OSError as error:
        raise UnavailableError(f"cannot read {path}: {error.strerror}") from error


def difference(path: Path, sha256: str | None, blob: str | None = None) -> str:
    """Return in words how a file differs from its official hashes, or "" if it does not.

    Args:
        path: The file.
        sha256: Official SHA-256, or None if nobody published one.
        blob: Official git blob hash, or None.

    Raises:
        UnavailableError: The file cannot be read.
    """
    checks = (("sha256", sha256, file_sha256), ("git blob", blob, git_blob))
    for kind, expected, digest in checks:
        if expected is not None and (actual := digest(path)) != expected:
            return f"{kind} {actual[:12]}, expected {expected[:12]}"
    return ""


def fetch_file(
    urls: Sequence[str],
    sha256: str | None,
    destination: Path,
    *,
    size_bytes: int | None = None,
    blob: str | None = None,
    headers: Mapping[str, str] | None = None,
    offline: bool = False,
    report: Callable[[str], None] = say_nothing,
) -> Path:
    """Return `destination`, downloaded from the first of `urls` that serves the right file.

    A file that is there with the right hash is not downloaded again.

    Args:
        urls: Addresses of the same file, tried in order; `http://`, `https://` or `file://`.
        sha256: SHA-256 of the file, or None if nobody published it.
        destination: Path of the file; its folder is made.
        size_bytes: Size of the file, where known; a longer download is stopped, as is one beyond
            `LARGEST_BYTES` where the size is unknown.
        blob: Git blob hash of the file, where known instead of the SHA-256.
        headers: Headers of the requests; `Authorization` is not sent to a host that the server redirects to.
        offline: Whether downloads are forbidden.
        report: Called with one line of text, with host and size, before each download.

    Raises:
        UnavailableError: Downloads are off, no server answers, or the file cannot be stored.
        IntegrityError: A server sent a file with another hash, or `destination` has another hash and
            downloads are off.
    """
    wrong = difference(destination, sha256, blob) if os.path.isfile(destination) else None
    if wrong == "":
        return destination
    if is_offline(offline) and wrong:
        raise IntegrityError(f"{destination}: {wrong}", f"delete {destination} and allow downloads")
    if is_offline(offline):
        hint = f"allow downloads, or put the file at {destination}"
        raise UnavailableError(f"{destination.name} is not on this machine, and downloads are off", hint)
    failures: list[FameError] = []
    for url in urls:
        size = "size unknown" if size_bytes is None else f"{size_bytes / 1e6:.1f} MB"
        report(f"downloading {destination.name} from {host_of(url)} ({size})")
        try:
            _download(url, sha256, blob, destination, size_bytes, headers or {})
            return destination
        except (UnavailableError, IntegrityError) as error:
            failures.append(error)
    altered = any(isinstance(error, IntegrityError) for error in failures)
    reasons = "; ".join(str(error) for error in failures)
    raise (IntegrityError if altered else UnavailableError)(
        f"cannot download {destination.name}: {reasons}",
        f"check the network and run again, or put the file at {destination}",
    )


def _download(
    url: str,
    sha256: str | None,
    blob: str | None,
    path: Path,
    size_bytes: int | None,
    headers: Mapping[str, str],
) -> None:
    """Put the file at `url` in place if its hashes are right; errors are those of `fetch_file`."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_leftovers(path.parent, ABANDONED_S)
        with partial_file(path) as partial:
            with partial.open("wb") as file:
                _transfer(url, file, size_bytes, headers)
            if wrong := difference(partial, sha256, blob):
                raise IntegrityError(wrong)
    except IntegrityError as error:
        raise IntegrityError(f"{host_of(url)} sent another file: {error}") from error
    except OSError as error:
        raise UnavailableError(f"cannot store {path}: {error.strerror or error}") from error


def host_of(url: str) -> str:
    """Return host and port of a URL, without user and password, or `this machine` for a file."""
    return urlsplit(url).netloc.rpartition("@")[2] or "this machine"


def _transfer(url: str, file: BinaryIO, size_bytes: int | None, headers: Mapping[str, str]) -> None:
    """Download `url` into the empty `file`.

    After status 429 or 5xx, a timeout or a broken connection, missing bytes are requested again, up to
    `TRIES` times with growing pauses. An unreachable server is tried once.

    Raises:
        UnavailableError: The file at `url` is missing, incomplete, too large or too slow.
        IntegrityError: The content is longer than `size_bytes`.
        OSError: `file` cannot be written.
    """
    if urlsplit(url).scheme == "file":
        _append(_read_chunks(Path(unquote(urlsplit(url).path))), file, size_bytes)
        return
    started_s, reason = time.monotonic(), ""

    def late() -> str:
        seconds = time.monotonic() - started_s
        in_time = seconds <= PATIENCE_S + file.tell() / SLOWEST_BYTES_PER_S
        return "" if in_time else f"{host_of(url)}: only {file.tell():,} bytes in {seconds:.0f} s"

    for attempt in range(TRIES):
        if attempt:
            time.sleep(FIRST_PAUSE_S * 2 ** (attempt - 1))
        reason = unless_late(lambda: _request(url, file, size_bytes, headers), late)
        if not reason:
            return
    raise UnavailableError(f"{host_of(url)}: {reason}, {TRIES} times")


def unless_late(request: Callable[[], T], late: Callable[[], str]) -> T:
    """Return the result of `request`.

    It runs in a thread, since timeouts of single reads do not stop a server that sends a byte now and then.

    Raises:
        UnavailableError: `late` has returned a reason to wait no longer.
        Exception: Any error of `request`.
    """
    found: Future[T] = Future()

    def work() -> None:
        try:
            found.set_result(request())
        except BaseException as error:
            found.set_exception(error)

    threading.Thread(target=work, daemon=True).start()
    while not wait([found], timeout=PATIENCE_S / 100).done:
        if reason := late():
            raise UnavailableError(reason)
    return found.result()


def _request(url: str, file: BinaryIO, size_bytes: int | None, more: Mapping[str, str]) -> str:
    """Request the bytes that `file` lacks; return the reason to retry, or "" if it is complete.

    Raises:
        UnavailableError: A retry would fail as well.
    """
    import requests
    import urllib3

    start = file.tell()
    # Nothing is unpacked in transit: neither .gz files sent as gzip-encoded, nor decompression bombs.
    headers = {**more, "Accept-Encoding": "identity"} | ({"Range": f"bytes={start}-"} if start else {})
    try:
        with requests.get(url, headers=headers, timeout=TIMEOUT_S, stream=True) as response:
            part = response.headers.get("Content-Range", "")
            continues = response.status_code == 206 and part.startswith(f"bytes {start}-")
            if not continues and (response.ok or response.status_code == 416):
                file.seek(0)
                file.truncate()
            if not continues and response.status_code in (206, 416):
                return f"another part than asked for, status {response.status_code}"
            response.raise_for_status()
            _append(response.raw.stream(CHUNK_BYTES, decode_content=False), file, size_bytes)
            known = "Content-Length" in response.headers or size_bytes is None
    # Malformed addresses and headers of servers raise errors of all these modules.
    except (
        requests.RequestException,
        urllib3.exceptions.HTTPError,
        http.client.HTTPException,
        ValueError,
    ) as error:
        failed = getattr(error, "response", None)
        reason = type(error).__name__ if failed is None else f"status {failed.status_code}"
        if failed is not None:
            passes = failed.status_code >= 500 or failed.status_code == 429
        else:
            # urllib3 gives a reason where no connection was made: no host, no route, a wrong certificate.
            unreachable = bool(error.args) and hasattr(error.args[0], "reason")
            broken = (
                requests.ConnectionError,
                requests.Timeout,
                urllib3.exceptions.ProtocolError,
                urllib3.exceptions.TimeoutError,
            )
            passes = isinstance(error, broken) and not unreachable
        if not passes:
            raise UnavailableError(f"{host_of(url)}: {reason}") from error
        return reason
    # Without a length, the end of a broken connection looks like that of the file.
    return "" if known or file.tell() == size_bytes else f"{file.tell()} of {size_bytes} bytes"


def _append(chunks: Iterable[bytes], file: BinaryIO, size_bytes: int | None) -> None:
    for chunk in chunks:
        size = file.tell() + len(chunk)
        if size_bytes is not None and size > size_bytes:
            raise IntegrityError("more bytes than the file has")
        if size_bytes is None and size > LARGEST_BYTES:
            raise UnavailableError(
                f"more than {LARGEST_BYTES >> 20:,} MiB, the limit for a file of unknown size"
            )
        file.write(chunk)


def _read_chunks(path: Path) -> Iterator[bytes]:
    try:
        if path.exists() and not path.is_file():
            raise UnavailableError(f"cannot read {path}: not a regular file")
        with path.open("rb") as file:
            while chunk := file.read(CHUNK_BYTES):
                yield chunk
    except (OSError, ValueError) as error:
        raise UnavailableError(f"cannot read {path}: {getattr(error, 'strerror', error)}") from error
