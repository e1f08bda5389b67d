"""Where files are: a folder that the user names, the cache, or a download that is checked by its hash."""

import hashlib
import os
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import BinaryIO
from urllib.parse import urlsplit

import platformdirs

from famecli.data.partial import partial_file
from famecli.data.registry import DatasetInfo
from famecli.errors import FameError, IntegrityError, UnavailableError

CACHE_TAG = b"Signature: 8a477f597d28d172789f06886806bc55\n# Downloads of famecli; may be deleted.\n"
TIMEOUT_S = 30


def say_nothing(message: str) -> None:
    """Drop a message: for callers that show none."""


def is_offline(flag: bool) -> bool:
    """Return whether the network is off, by the option or by FAME_OFFLINE or HF_HUB_OFFLINE."""
    values = (os.environ.get(name, "").lower() for name in ("FAME_OFFLINE", "HF_HUB_OFFLINE"))
    return flag or any(value in ("1", "true", "yes", "on") for value in values)


def cache_root(cache_dir: Path | None = None) -> Path:
    """Return the cache folder: `cache_dir`, else FAME_CACHE, else the system's place for caches.

    It is made if absent, with the tag that tells backup programs to pass it by.
    """
    named = cache_dir or os.environ.get("FAME_CACHE")
    root = Path(named).expanduser() if named else platformdirs.user_cache_path("famecli")
    if not os.path.exists(root):
        # A home that cannot be written to matters only once something has to be stored there.
        with suppress(OSError):
            root.mkdir(parents=True)
            (root / "CACHEDIR.TAG").write_bytes(CACHE_TAG)
    return root


def find_file(folder: Path, name: str) -> Path | None:
    """Return the file `name` in `folder`, there with or without its `.gz`, or None."""
    candidates = (folder / name, folder / name.removesuffix(".gz"))
    # Unlike those of Path, the questions of os.path take a folder that may not be entered for a no.
    return next((path for path in candidates if os.path.exists(path)), None)


def locate(
    info: DatasetInfo,
    data: Path | None = None,
    cache_dir: Path | None = None,
    offline: bool = False,
    report: Callable[[str], None] = say_nothing,
) -> Path:
    """Return the folder with the files of a data set, after downloading what is nowhere on this machine.

    Looked for in this order: `data`, the folder in FAME_DATA, the cache, the official mirrors. The first two
    may hold the files themselves or a folder named after the data set's family.

    Args:
        info: The data set.
        data: The folder that the user named; then no other is looked at.
        cache_dir: See `cache_root`.
        offline: Whether downloads are forbidden.
        report: Told each download before it starts.

    Raises:
        UnavailableError: Not found, and not to be had.
        IntegrityError: No mirror has the right file.
    """
    if data is not None:
        if folder := _folder_in(data, info):
            return folder
        first = next(iter(info.files))
        raise UnavailableError(
            f"no files of {info.name} in {data}",
            f"put {first} and its like there, or leave --data out to download",
        )
    named = os.environ.get("FAME_DATA")
    if named and (folder := _folder_in(Path(named), info)):
        return folder
    folder = cache_root(cache_dir) / "datasets" / info.family
    missing = [name for name in info.files if find_file(folder, name) is None]
    if missing and is_offline(offline):
        if len(missing) < len(info.files):
            return folder
        raise UnavailableError(
            f"{info.name} is not on this machine, and downloads are off",
            "name a folder with --data FOLDER or set FAME_DATA, or run without --offline",
        )
    for name in missing:
        urls = [mirror + name for mirror in info.mirrors]
        file = info.files[name]
        fetch_file(
            urls, file.sha256, folder / name, size_bytes=file.size_bytes, offline=offline, report=report
        )
    return folder


def fetch_file(
    urls: Sequence[str],
    sha256: str,
    destination: Path,
    *,
    size_bytes: int | None = None,
    offline: bool = False,
    report: Callable[[str], None] = say_nothing,
) -> Path:
    """Return `destination`, downloaded from the first of `urls` that serves the right file.

    A file that is there with the right hash is not downloaded again. The name appears only once the whole
    file is there and its hash is right.

    Args:
        urls: Addresses of the same file, tried in order.
        sha256: Of the file, in full.
        destination: Where it goes; its folder is made.
        size_bytes: Of the file, where known: a download stops when it is longer.
        offline: Whether downloads are forbidden.
        report: Told host and size before each download.

    Raises:
        UnavailableError: Downloads are off, no server answers, or the file cannot be stored.
        IntegrityError: What a server sent, or what is there while downloads are off, has another hash.
    """
    if os.path.isfile(destination):
        actual = _file_sha256(destination)
        if actual == sha256:
            return destination
        if is_offline(offline):
            hint = f"delete {destination} and run without --offline"
            raise IntegrityError(f"{destination}: {_difference(actual, sha256)}", hint)
    if is_offline(offline):
        hint = f"run without --offline, or put the file at {destination}"
        raise UnavailableError(f"{destination.name} is not on this machine, and downloads are off", hint)
    failures: list[FameError] = []
    for url in urls:
        size = "size unknown" if size_bytes is None else f"{size_bytes / 1e6:.1f} MB"
        report(f"downloading {destination.name} from {urlsplit(url).netloc} ({size})")
        try:
            _download(url, sha256, destination, size_bytes)
            return destination
        except (UnavailableError, IntegrityError) as error:
            failures.append(error)
    kind = (
        IntegrityError if any(isinstance(error, IntegrityError) for error in failures) else UnavailableError
    )
    reasons = "; ".join(str(error) for error in failures)
    hint = f"check the network and run again, or put the file at {destination}"
    raise kind(f"cannot download {destination.name}: {reasons}", hint)


class _Bounded:
    """A file for pooch to write to that takes no more than it should.

    Args:
        file: Where the bytes go.
        limit_bytes: None for no limit.
    """

    def __init__(self, file: BinaryIO, limit_bytes: int | None) -> None:
        self.file = file
        self.left_bytes = float("inf") if limit_bytes is None else limit_bytes

    def write(self, chunk: bytes) -> None:
        self.left_bytes -= len(chunk)
        if self.left_bytes < 0:
            raise IntegrityError("more bytes than the file has")
        self.file.write(chunk)

    def flush(self) -> None:
        self.file.flush()


def _download(url: str, sha256: str, destination: Path, size_bytes: int | None) -> None:
    """Put the file at `url` in place if its hash is right; errors are those of `fetch_file`."""
    import requests

    host = urlsplit(url).netloc
    try:
        destination.parent.mkdir(parents=True, exist_ok=True)
        with partial_file(destination) as partial:
            with partial.open("wb") as file:
                _request(url, _Bounded(file, size_bytes))
            actual = _file_sha256(partial)
            if actual != sha256:
                raise IntegrityError(_difference(actual, sha256))
    except IntegrityError as error:
        raise IntegrityError(f"{host} sent another file: {error}") from error
    except requests.RequestException as error:
        raise UnavailableError(f"{host}: {_reason(error)}") from error
    except OSError as error:
        raise UnavailableError(f"cannot store {destination}: {error.strerror or error}") from error


def _request(url: str, file: _Bounded) -> None:
    import pooch

    with ExitStack() as responses:
        download = pooch.HTTPDownloader(
            chunk_size=1 << 16,
            timeout=TIMEOUT_S,
            # Else requests would unpack a .gz file that a server declares as compressed in transit.
            headers={"Accept-Encoding": "identity"},
            # Pooch leaves the connection open when a download fails.
            hooks={"response": lambda response, **_: responses.enter_context(response)},
        )
        download(url, file, None)


def _reason(error: Exception) -> str:
    """Return what went wrong in a few words; what requests says of itself can run over many lines."""
    response = getattr(error, "response", None)
    return f"status {response.status_code}" if response is not None else type(error).__name__


def _file_sha256(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UnavailableError(f"cannot read {path}: {error.strerror}") from error


def _difference(actual: str, expected: str) -> str:
    return f"sha256 {actual[:12]}, expected {expected[:12]}"


def _folder_in(folder: Path, info: DatasetInfo) -> Path | None:
    """Return `folder`, or the one in it named after the family, whichever holds files of the data set."""
    for candidate in (folder, folder / info.family):
        if any(find_file(candidate, name) for name in info.files):
            return candidate
    return None
