"""Where weights lie: in the package, in the cache, or at an address to fetch them from. No torch here."""

import hashlib
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

from famecli.checkpoints.index import WeightsEntry, index, named_weights, weights_folder
from famecli.checkpoints.urls import SHA256, addresses, parse_url
from famecli.data.cache import cache_root
from famecli.data.fetch import fetch_file, is_offline, say_nothing
from famecli.errors import InputError, IntegrityError, UnavailableError, UsageError
from famecli.files import read_bytes

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
SUFFIX = ".safetensors"


@dataclass(frozen=True)
class Imported:
    """A checkpoint of the user's own that was imported under a name."""

    name: str
    path: Path

    @property
    def sha256(self) -> str:
        """Of the file when it was imported: it is called by it."""
        return self.path.stem


@dataclass(frozen=True)
class Store:
    """The weights of this machine, and the way to those that are not here yet.

    Args:
        cache_dir: See `famecli.data.cache.cache_root`.
        offline: Whether downloads are forbidden.
        report: Told each download before it starts.
    """

    cache_dir: Path | None = None
    offline: bool = False
    report: Callable[[str], None] = say_nothing

    @property
    def folder(self) -> Path:
        """Where fetched and imported weights are kept."""
        return cache_root(self.cache_dir) / "weights"

    def cached(self, name: str, sha256: str) -> Path:
        """Return where a fetched file goes; its hash is in the name, so that versions do not meet."""
        return self.folder / f"{name}-{sha256[:12]}{SUFFIX}"

    def find(self, entry: WeightsEntry) -> Path | None:
        """Return the file of an entry if it is on this machine; its hash is not looked at."""
        places = (weights_folder() / entry.file, self.cached(entry.name, entry.sha256))
        return next((path for path in places if os.path.isfile(path)), None)

    def fetch(self, entry: WeightsEntry) -> Path:
        """Return the file of an entry: of the package, else of the cache with the right hash, else fetched.

        Raises:
            UnavailableError: It is not here and may not or cannot be had.
            IntegrityError: No address has the right file.
        """
        packaged = weights_folder() / entry.file
        if packaged.exists():
            return packaged
        target = self.cached(entry.name, entry.sha256)
        urls = addresses(entry)
        if not urls and os.path.isfile(target):
            check_hash(target, entry.sha256)
            return target
        if not urls:
            hint = f"set FAME_WEIGHTS_URL to an address with {entry.file}, or: fame weights import FILE"
            raise UnavailableError(f"no address of {entry.name} is known", hint)
        return self._fetch(entry.name, urls, target, entry.sha256, entry.size_bytes)

    def get(self, word: str) -> Path | None:
        """Return the file of a name or a URL, fetched where it is not here; None if it is neither.

        Raises:
            UsageError: A URL is not one, or tells no hash.
            FameError: As `fetch` does.
        """
        if "://" in word:
            return self.fetch_url(word)
        if (entry := named_weights(word)) is not None:
            return self.fetch(entry)
        found = next((each for each in self.imported() if each.name == word), None)
        return None if found is None else found.path

    def fetch_url(self, text: str) -> Path:
        """Return the file at a URL with `#sha256=HEX`, or with the file name of an entry of the index.

        Raises:
            UsageError: It is no URL, or tells no hash.
            UnavailableError: It is not in the cache and may not or cannot be had.
            IntegrityError: It has another hash.
        """
        url, sha256 = parse_url(text)
        file = PurePosixPath(unquote(urlsplit(url).path)).name
        entry = next((each for each in index().values() if each.file == file), None)
        size_bytes = None
        if entry is not None and sha256 in ("", entry.sha256):
            sha256, size_bytes = entry.sha256, entry.size_bytes
        if not sha256:
            hint = f"add #sha256=HEX, the file's hash: {text}#sha256=..."
            raise UsageError("a URL without a hash is not fetched", hint)
        name = re.sub(r"[^A-Za-z0-9._-]", "_", file.removesuffix(SUFFIX)).lstrip(".")[:100] or "checkpoint"
        return self._fetch(url, [url], self.cached(name, sha256), sha256, size_bytes)

    def _fetch(self, what: str, urls: list[str], target: Path, sha256: str, size_bytes: int | None) -> Path:
        if is_offline(self.offline) and not os.path.isfile(target):
            hint = "run without --offline, or bring it here with fame weights pack and import"
            raise UnavailableError(f"{what} is not on this machine, and downloads are off", hint)
        return fetch_file(
            urls, sha256, target, size_bytes=size_bytes, offline=self.offline, report=self.report
        )

    def imported(self) -> Iterator[Imported]:
        """Yield what was imported, by name."""
        folder = self.folder / "imported"
        try:
            paths = sorted(folder.glob(f"*/*{SUFFIX}"))
        except OSError:
            return
        for path in paths:
            if NAME.fullmatch(path.parent.name) and SHA256.fullmatch(path.stem):
                yield Imported(path.parent.name, path)

    def place_of_import(self, name: str, sha256: str) -> Path:
        """Return where a checkpoint of the user's own goes.

        Raises:
            InputError: The name cannot be one.
        """
        if not NAME.fullmatch(name) or name.endswith(SUFFIX):
            raise InputError(
                f"{name!r} cannot be a name of weights", "letters, digits, - . and _; choose one with --name"
            )
        return self.folder / "imported" / name / f"{sha256}{SUFFIX}"

    def installed(self) -> Iterator[tuple[str, Path, str]]:
        """Yield name, file and recorded hash of all weights on this machine that have a name."""
        for entry in index().values():
            if (path := self.find(entry)) is not None:
                yield entry.name, path, entry.sha256
        for found in self.imported():
            yield found.name, found.path, found.sha256


def check_hash(path: Path, sha256: str) -> None:
    """Check a file on this machine against its recorded hash.

    Raises:
        IntegrityError: It has another one.
        InputError: It cannot be read.
    """
    actual = hashlib.sha256(read_bytes(path, "weights")).hexdigest()
    if actual != sha256:
        raise IntegrityError(
            f"{path}: sha256 {actual[:12]}, expected {sha256[:12]}", f"delete {path} and fetch it again"
        )
