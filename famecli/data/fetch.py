"""Where files are: a folder that the user names, the cache, or a download that is checked by its hash."""

import os
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from pathlib import Path

import platformdirs

from famecli.data.check import difference
from famecli.data.info import DatasetInfo
from famecli.data.transfer import host_of, transfer
from famecli.errors import FameError, InputError, IntegrityError, UnavailableError
from famecli.files import partial_file, remove_leftovers

CACHE_TAG = b"Signature: 8a477f597d28d172789f06886806bc55\n# Downloads of famecli; may be deleted.\n"

# After which a download that is not whole was left by a process that was killed.
ABANDONED_S = 86_400.0


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


def find_member(folder: Path, name: str) -> Path | None:
    """Return the file that an archive holds as `name`, unpacked in `folder`, or None."""
    candidates = (folder / name, folder / os.path.basename(name))
    return next((path for path in candidates if os.path.isfile(path)), None)


def missing_files(info: DatasetInfo, folder: Path, split: str | None = None) -> list[str]:
    """Return the files of a data set that a split, or for None any, needs and `folder` lacks."""
    return [
        name
        for name, file in info.files.items()
        if file.needed_for(split) and find_file(folder, name) is None and not _unpacked(folder, file.members)
    ]


def _unpacked(folder: Path, members: Collection[str]) -> bool:
    return bool(members) and all(find_member(folder, name) for name in members)


def dataset_cache(info: DatasetInfo, cache_dir: Path | None = None) -> Path:
    """Return the folder in the cache where downloaded files of a data set are, or would be."""
    return cache_root(cache_dir) / "datasets" / info.family


def find_dataset(info: DatasetInfo, data: Path | None = None, cache_dir: Path | None = None) -> Path | None:
    """Return the folder with files of a data set on this machine, or None; see `locate` for the order.

    Raises:
        InputError: `data` has a version of it that consists of pickles, and no other.
    """
    named = os.environ.get("FAME_DATA")
    roots = [data] if data is not None else [Path(named)] if named else []
    for root in roots:
        if folder := _folder_in(root, info):
            return folder
    if data is None:
        folder = dataset_cache(info, cache_dir)
        if len(missing_files(info, folder)) < len(info.files):
            return folder
    else:
        _refuse_pickles(data, info)
    return None


def locate(
    info: DatasetInfo,
    data: Path | None = None,
    cache_dir: Path | None = None,
    offline: bool = False,
    report: Callable[[str], None] = say_nothing,
    split: str | None = None,
) -> Path:
    """Return the folder with the files of a data set, after downloading what is nowhere on this machine.

    Looked for in this order: `data`, the folder in FAME_DATA, the cache, the official mirrors. The first two
    may hold the files themselves or a folder with the data set's name, or with what comes before its dash.

    Args:
        info: The data set.
        data: The folder that the user named; then no other is looked at.
        cache_dir: See `cache_root`.
        offline: Whether downloads are forbidden.
        report: Told each download before it starts.
        split: Whose files are needed; None for all.

    Raises:
        InputError: `data` has a version of it that consists of pickles, and no other.
        UnavailableError: Not found, and not to be had.
        IntegrityError: No mirror has the right file.
    """
    found = find_dataset(info, data, cache_dir)
    folder = dataset_cache(info, cache_dir)
    if found is not None and found != folder:
        return found
    if data is not None:
        first = next(iter(info.files), "them")
        raise UnavailableError(
            f"no files of {info.name} in {data}",
            f"put {first} and its like there, or leave --data out to download",
        )
    missing = missing_files(info, folder, split)
    if missing and is_offline(offline):
        if found:
            return folder
        raise UnavailableError(
            f"{info.name} is not on this machine, and downloads are off",
            "name a folder with --data FOLDER or set FAME_DATA, or run without --offline",
        )
    for name in missing:
        file = info.files[name]
        fetch_file(
            [mirror + name for mirror in info.mirrors],
            file.sha256,
            folder / name,
            size_bytes=file.size_bytes,
            blob=file.git_blob,
            offline=offline,
            report=report,
        )
    return folder


def fetch_file(
    urls: Sequence[str],
    sha256: str | None,
    destination: Path,
    *,
    size_bytes: int | None = None,
    blob: str | None = None,
    offline: bool = False,
    report: Callable[[str], None] = say_nothing,
) -> Path:
    """Return `destination`, downloaded from the first of `urls` that serves the right file.

    A file that is there with the right hash is not downloaded again. The name appears only once the whole
    file is there and its hash is right.

    Args:
        urls: Addresses of the same file, tried in order; `http://`, `https://` or `file://`.
        sha256: Of the file, in full; None where nobody published it.
        destination: Where it goes; its folder is made.
        size_bytes: Of the file, where known: a download stops when it is longer.
        blob: The name that git gives to the file, where that is known.
        offline: Whether downloads are forbidden.
        report: Told host and size before each download.

    Raises:
        UnavailableError: Downloads are off, no server answers, or the file cannot be stored.
        IntegrityError: What a server sent, or what is there while downloads are off, has another hash.
    """
    if os.path.isfile(destination):
        wrong = difference(destination, sha256, blob)
        if not wrong:
            return destination
        if is_offline(offline):
            hint = f"delete {destination} and run without --offline"
            raise IntegrityError(f"{destination}: {wrong}", hint)
    if is_offline(offline):
        hint = f"run without --offline, or put the file at {destination}"
        raise UnavailableError(f"{destination.name} is not on this machine, and downloads are off", hint)
    failures: list[FameError] = []
    for url in urls:
        size = "size unknown" if size_bytes is None else f"{size_bytes / 1e6:.1f} MB"
        report(f"downloading {destination.name} from {host_of(url)} ({size})")
        try:
            _download(url, (sha256, blob), destination, size_bytes)
            return destination
        except (UnavailableError, IntegrityError) as error:
            failures.append(error)
    kind = (
        IntegrityError if any(isinstance(error, IntegrityError) for error in failures) else UnavailableError
    )
    reasons = "; ".join(str(error) for error in failures)
    hint = f"check the network and run again, or put the file at {destination}"
    raise kind(f"cannot download {destination.name}: {reasons}", hint)


def _download(
    url: str, hashes: tuple[str | None, str | None], destination: Path, size_bytes: int | None
) -> None:
    """Put the file at `url` in place if its hashes are right; errors are those of `fetch_file`."""
    try:
        destination.parent.mkdir(parents=True, exist_ok=True)
        remove_leftovers(destination.parent, ABANDONED_S)
        with partial_file(destination) as partial:
            with partial.open("wb") as file:
                transfer(url, file, size_bytes)
            if wrong := difference(partial, *hashes):
                raise IntegrityError(wrong)
    except IntegrityError as error:
        raise IntegrityError(f"{host_of(url)} sent another file: {error}") from error
    except OSError as error:
        raise UnavailableError(f"cannot store {destination}: {error.strerror or error}") from error


def _folder_in(folder: Path, info: DatasetInfo) -> Path | None:
    """Return which of `_places` holds files of the data set: that which lacks fewest, then the first."""

    def holds(place: Path, name: str) -> bool:
        return bool(
            find_file(place, name) or any(find_member(place, each) for each in info.files[name].members)
        )

    found = [place for place in _places(folder, info) if any(holds(place, name) for name in info.files)]
    return min(found, key=lambda place: len(missing_files(info, place)), default=None)


def _places(folder: Path, info: DatasetInfo) -> list[Path]:
    """Return where in a folder of many data sets this one may be: its name is `omniglot` for all of these."""
    names = dict.fromkeys((info.name, info.family, info.family.partition("-")[0]))
    return [folder, *(folder / name for name in names)]


def _refuse_pickles(folder: Path, info: DatasetInfo) -> None:
    for candidate in _places(folder, info):
        for name in info.pickles:
            if os.path.exists(candidate / name):
                raise InputError(
                    f"{candidate / name} holds {info.name} as pickles, which can run any code: refused",
                    f"put {next(iter(info.files))} there, or leave --data out to download it",
                )
