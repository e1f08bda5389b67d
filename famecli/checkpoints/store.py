"""Files of checkpoints: by path, by name in the package or the cache, or from an address. No torch here."""

import hashlib
import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urldefrag, urlsplit

from famecli.checkpoints import hub
from famecli.checkpoints.description import model_in, weights_hash_in
from famecli.checkpoints.header import read_checkpoint, read_header
from famecli.checkpoints.index import WeightsEntry, index, weights_folder
from famecli.checkpoints.provenance import parse_provenance
from famecli.checkpoints.urls import SHA256, HubFile, Located, addresses, is_hub, parse_url
from famecli.data.fetch import fetch_file, is_offline, say_nothing
from famecli.errors import (
    ArgumentError,
    FameError,
    InputError,
    IntegrityError,
    UnavailableError,
    did_you_mean,
)
from famecli.files import CHUNK_BYTES, STDIN, cache_root, open_input, unwritable, write_atomic

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
SUFFIX = ".safetensors"
# State of a training, and its last checkpoint, in the folder of a run.
STATE, LAST = "state.safetensors", "last.safetensors"
# Checkpoints of a run's folder, in the order in which they are looked for.
RUN_FILES = ("best.safetensors", LAST)
# Files by which a folder is that of a run, not one of images.
RUN_MARKS = (*RUN_FILES, STATE)


@dataclass(frozen=True)
class Named:
    """Named weights on this machine.

    Args:
        name: Name, as typed in place of a file.
        path: Path of the file.
        sha256: Recorded SHA-256 of the file.
    """

    name: str
    path: Path
    sha256: str


@dataclass(frozen=True)
class Store:
    """Weights on this machine, and downloads of those that are not.

    Args:
        cache_dir: Cache folder; see `famecli.files.cache_root`.
        offline: Whether downloads are forbidden.
        report: Called with a line before each download.
    """

    cache_dir: Path | None = None
    offline: bool = False
    report: Callable[[str], None] = say_nothing

    @property
    def folder(self) -> Path:
        """Folder of fetched and imported weights."""
        return cache_root(self.cache_dir) / "weights"

    def cached(self, name: str, sha256: str) -> Path:
        """Return the path of a fetched file; its hash is in the name, so that versions do not collide."""
        return self.folder / f"{name}-{sha256[:12]}{SUFFIX}"

    def find(self, entry: WeightsEntry) -> Path | None:
        """Return the file of an entry if it is on this machine; its hash is not checked."""
        places = (weights_folder() / entry.file, self.cached(entry.name, entry.sha256))
        return next((path for path in places if os.path.isfile(path)), None)

    def fetch(self, entry: WeightsEntry) -> Path:
        """Return the file of an entry: from the package, the cache if the hash is right, or fetched.

        Raises:
            UnavailableError: The file is not on this machine, and downloads are off or fail.
            IntegrityError: No address has the right file.
        """
        packaged, target = weights_folder() / entry.file, self.cached(entry.name, entry.sha256)
        if packaged.exists():
            return packaged
        if urls := addresses(entry):
            return self._fetch(entry.name, urls, target, entry.sha256, entry.size_bytes)
        if not os.path.isfile(target):
            hint = f"set FAME_WEIGHTS_URL to an address with {entry.file}, or: fame weights pull FILE"
            raise UnavailableError(f"no address of {entry.name} is known", hint)
        check_hash(target, entry.sha256)
        return target

    def get(self, word: str) -> Path | None:
        """Return the file of a name or a URL, fetched if needed; None for any other word.

        Raises:
            ArgumentError: A URL has an unknown scheme, or no hash.
            FameError: `fetch` fails.
        """
        if "://" in word:
            return self.fetch_located(self.locate(word))
        if (entry := index().get(word)) is not None:
            return self.fetch(entry)
        return next((each.path for each in self.imported() if each.name == word), None)

    def locate(self, text: str) -> Located:
        """Return the file at a URL with its hash: the typed one, that of the index, or that of the hub.

        Raises:
            ArgumentError: A URL has an unknown scheme, or no hash.
            UnavailableError: The hub is not asked, or does not answer.
        """
        url, sha256 = parse_url(text)
        file = PurePosixPath(unquote(urlsplit(url).path)).name
        entry = next((each for each in index().values() if each.file == file), None)
        size_bytes = None
        if entry is not None and sha256 in ("", entry.sha256):
            sha256, size_bytes = entry.sha256, entry.size_bytes
        address = urldefrag(text).url
        place = HubFile.parse(address) if is_hub(text) else None
        if place is not None and not sha256:
            if is_offline(self.offline):
                hint = f"name a file on this machine, or the hash: {place}#sha256=..."
                raise UnavailableError(f"the hub is not asked for {place}: downloads are off", hint)
            return hub.locate(place)
        if not sha256:
            hint = f"add #sha256=HEX, the file's hash: {url}#sha256=..."
            raise ArgumentError("a URL without a hash is not fetched", hint)
        return Located(address, file if place is None else place.name, sha256, size_bytes)

    def fetch_located(self, located: Located) -> Path:
        """Return a file that `locate` found, imported or else fetched; errors as for `fetch`."""
        for each in self.imported():
            if each.sha256 == located.sha256:
                check_hash(each.path, each.sha256)
                return each.path
        headers = hub.headers() if is_hub(located.address) else {}
        return self._fetch(
            located.address,
            [located.url],
            self._target(located),
            located.sha256,
            located.size_bytes,
            headers,
        )

    def _target(self, located: Located) -> Path:
        """Return the path that a file which `locate` found has in the cache."""
        name = re.sub(r"[^A-Za-z0-9._-]", "_", located.name.removesuffix(SUFFIX)).lstrip(".")[:100]
        return self.cached(name or "checkpoint", located.sha256)

    def pull(self, located: Located, name: str | None = None, *, force: bool = False) -> Named:
        """Fetch and check a file that `locate` found, and keep it under a name; errors as for `keep`."""
        target = self._target(located)
        was_here = os.path.isfile(target)
        path = self.fetch_located(located)
        kept = None
        try:
            kept = self.keep(path, name or located.name.removesuffix(SUFFIX), force=force)
        finally:
            # A kept copy replaces the download. After a refused pull, a file that was here before it stays.
            if path == target and (not was_here if kept is None else kept.path != path):
                path.unlink(missing_ok=True)
        return kept

    def _fetch(
        self,
        what: str,
        urls: list[str],
        target: Path,
        sha256: str,
        size_bytes: int | None,
        headers: Mapping[str, str] | None = None,
    ) -> Path:
        if is_offline(self.offline) and not os.path.isfile(target):
            hint = "run without `offline`, or bring the file here: fame weights pull FILE"
            raise UnavailableError(f"{what} is not on this machine, and downloads are off", hint)
        return fetch_file(
            urls,
            sha256,
            target,
            size_bytes=size_bytes,
            headers=headers,
            offline=self.offline,
            report=self.report,
        )

    def keep(self, path: Path, name: str | None = None, *, force: bool = False) -> Named:
        """Check a checkpoint, and keep a copy in the cache under a name.

        A file of the index is recognised by its hash and keeps its name; any other file is fully checked.

        Args:
            path: Checkpoint.
            name: Name in the cache; None for the file's own name.
            force: Whether another checkpoint of this name is replaced.

        Raises:
            InputError: The checkpoint is invalid, the name is taken or invalid, or the cache cannot be
                written.
            IntegrityError: The index has this name with another hash.
        """
        content = read_checkpoint(path)
        sha256 = hashlib.sha256(content).hexdigest()
        entry = next((each for each in index().values() if each.sha256 == sha256), None)
        if entry is not None:
            found = Named(entry.name, self.find(entry) or self.cached(entry.name, sha256), sha256)
        else:
            found = self._own(path, content, name or path.name.removesuffix(SUFFIX), sha256)
        others = [each.path for each in self.imported() if each.name == found.name and each != found]
        if others and not force:
            hint = "add `force` to replace it, or choose a `name`"
            raise InputError(f"another checkpoint is called {found.name}", hint)
        if not os.path.isfile(found.path) or _sha256(found.path) != sha256:
            try:
                found.path.parent.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise unwritable(found.path, error) from error
            write_atomic(found.path, content)
        for other in others:
            other.unlink(missing_ok=True)
        return found

    def _own(self, path: Path, content: bytes, name: str, sha256: str) -> Named:
        """Return name and path of a checkpoint that is not in the index, after a full check."""
        from famecli.checkpoints.checkpoint import parse_checkpoint

        if (known := index().get(name)) is not None:
            hint = "choose another `name`"
            found = f"sha256 {sha256[:12]}, but that of {name} is {known.sha256[:12]}"
            raise IntegrityError(f"{path}: {found}", hint)
        if not NAME.fullmatch(name) or name.endswith(SUFFIX):
            hint = "choose a `name` of letters, digits, - . and _"
            raise InputError(f"{name!r} cannot be a name of weights", hint)
        parse_checkpoint(content, str(path))
        return Named(name, self.folder / "imported" / name / f"{sha256}{SUFFIX}", sha256)

    def remove(self, name: str) -> list[Path]:
        """Delete fetched or imported weights from the cache, and return their files.

        Args:
            name: Name of the weights, or of the file of a URL.

        Raises:
            ArgumentError: The weights are part of the package, or the name is unknown.
            UnavailableError: The weights are not on this machine.
            InputError: A file cannot be deleted.
        """
        entry, found = index().get(name), [each.path for each in self.imported() if each.name == name]
        fetched = re.compile(re.escape(name) + "-[0-9a-f]{12}" + re.escape(SUFFIX))
        with suppress(OSError):
            found += [path for path in sorted(self.folder.iterdir()) if fetched.fullmatch(path.name)]
        if not found and entry is None:
            raise self.unknown(name)
        if not found and (weights_folder() / str(entry and entry.file)).exists():
            raise ArgumentError(
                f"{name} is part of the package: cannot remove it", "fame weights list says where files are"
            )
        if not found:
            raise UnavailableError(f"{name} is not on this machine")
        for path in found:
            try:
                path.unlink(missing_ok=True)
            except OSError as error:
                raise InputError(f"cannot delete {path}: {error.strerror}") from error
        return found

    def unknown(self, name: str) -> ArgumentError:
        """Return the error for a word that is neither a file nor a name of weights."""
        names = [*index(), *(each.name for each in self.imported())]
        hint = did_you_mean(name, names, "names of weights")
        return ArgumentError(f"no checkpoint file, run folder or weights called {name}", hint)

    def imported(self) -> Iterator[Named]:
        """Yield imported weights, by name."""
        try:
            paths = sorted((self.folder / "imported").glob(f"*/*{SUFFIX}"))
        except OSError:
            return
        for path in paths:
            if NAME.fullmatch(path.parent.name) and SHA256.fullmatch(path.stem) and path.is_file():
                yield Named(path.parent.name, path, path.stem)

    def with_classes(self, dataset: str | None) -> list[str]:
        """Return the names of a data set's weights with classes: those of the index, and imported ones."""
        names = [each.name for each in index().values() if each.nll.given and each.dataset == dataset]
        for each in self.imported():
            with suppress(FameError):
                metadata = read_header(each.path).metadata
                if model_in(metadata, each.name).classes and parse_provenance(metadata).dataset == dataset:
                    names.append(each.name)
        return names

    def installed(self) -> Iterator[Named]:
        """Yield all named weights on this machine."""
        for entry in index().values():
            if (path := self.find(entry)) is not None:
                yield Named(entry.name, path, entry.sha256)
        yield from self.imported()


def checkpoint_file(name: str, store: Store) -> Path:
    """Return the file of a checkpoint, fetched if needed.

    Args:
        name: File, run folder, name of weights, URL, or `-` for stdin.
        store: Named weights.

    Raises:
        ArgumentError: The name is unknown, or a URL has no hash.
        UnavailableError: The weights are not on this machine, and downloads are off or fail.
        IntegrityError: No address has the right file.
        InputError: No such file, or a run folder without a checkpoint.
    """
    if not name:
        raise ArgumentError("the name of the checkpoint is empty", "name a file, a run folder or weights")
    path = Path(name)
    if os.path.isdir(path):
        found = next((path / file for file in RUN_FILES if (path / file).is_file()), None)
        if found is None:
            raise InputError(f"no checkpoint in {path}", f"a run folder holds {' or '.join(RUN_FILES)}")
        return found
    if path == STDIN or os.path.exists(path):
        return path
    if (found := store.get(name)) is not None:
        return found
    if path.suffix or len(path.parts) > 1:
        raise InputError(f"cannot read checkpoint {path}: no such file", "fame train writes one")
    raise store.unknown(name)


def weights_with_hash(kind: str, sha256: str, name: str, store: Store, hint: str = "") -> Path:
    """Return the named checkpoint whose weights have a hash; only headers are read.

    The weights of a fetched file are not compared with the hash.

    Args:
        kind: `ema` or `raw`.
        sha256: SHA-256 of the weights.
        name: Name of the weights, which are fetched if no file on this machine has them.
        store: Named weights.
        hint: Advice if no weights have the hash.

    Raises:
        UnavailableError: No named weights have this hash.
        IntegrityError: No address has the right file.
    """
    for each in store.installed():
        with suppress(FameError):
            if weights_hash_in(read_header(each.path).metadata, kind) == sha256:
                return each.path
    if (entry := index().get(name)) is not None and store.find(entry) is None:
        return store.fetch(entry)
    raise UnavailableError(
        f"the file was written with weights {sha256[:12]} ({name}), which are not here", hint
    )


def check_hash(path: Path, sha256: str) -> None:
    """Check a file on this machine against its recorded hash.

    Raises:
        IntegrityError: The file has another hash.
        InputError: The file cannot be read.
    """
    actual = _sha256(path)
    if actual != sha256:
        raise IntegrityError(
            f"{path}: sha256 {actual[:12]}, expected {sha256[:12]}", f"delete {path} and fetch it again"
        )


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with open_input(path, "weights") as file:
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()
