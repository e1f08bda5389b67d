"""Data sets on this machine: descriptions, missing downloads, and checks against the official hashes."""

from contextlib import suppress
from pathlib import Path
from typing import Any

from famecli.data.cache import dataset_cache, file_states, find_dataset, locate, missing_files
from famecli.data.dataset import fixed_levels, load_split
from famecli.data.registry import FOLDER, DatasetInfo
from famecli.errors import FameError, IntegrityError, UnavailableError


def describe_dataset(info: DatasetInfo, data: Path | None, cache_dir: Path | None) -> dict[str, Any]:
    """Return the description of a data set, and its folder on this machine, for JSON.

    Args:
        info: The data set.
        data: See `famecli.data.cache.locate`.
        cache_dir: See `famecli.files.cache_root`.
    """
    path, own = None, info.name == FOLDER
    # A version in pickles raises an error: no command reads it.
    with suppress(FameError):
        path = find_dataset(info, data, cache_dir)
    kinds = {
        "sha256" if file.sha256 else "git blob" if file.git_blob else "unverified"
        for file in info.files.values()
    }
    files = {
        name: {
            "sha256": file.sha256,
            "git_blob": file.git_blob,
            "bytes": file.size_bytes,
            "content_sha256": file.content_sha256,
            "members": dict(file.members),
        }
        for name, file in info.files.items()
    }
    return {
        "name": info.name,
        "title": info.title,
        "shape": None if own else list(info.shape),
        "levels": info.levels,
        "binarization": info.binarization,
        "splits": None if own else dict(info.splits),
        "rule": info.rule,
        "unit": info.unit,
        "citation": info.citation,
        "hashes": ", ".join(sorted(kinds)) or "none",
        "hashes_from": info.source,
        "test_pixels_sha256": info.pixels_sha256,
        "files": files,
        "mirrors": list(info.mirrors),
        "path": None if path is None else str(path),
    }


def missing_downloads(info: DatasetInfo, cache_dir: Path | None) -> dict[str, Any]:
    """Return the folder of a data set, and the files that a download would fetch, for JSON."""
    path, cache = find_dataset(info, None, cache_dir), dataset_cache(info, cache_dir)
    # Downloads go to the cache, never to a user's folder.
    files = missing_files(info, cache) if path in (None, cache) else []
    sizes = [info.files[name].size_bytes for name in files]
    return {
        "name": info.name,
        "path": None if path is None else str(path),
        "downloads": files,
        "bytes": None if None in sizes else sum(size for size in sizes if size is not None),
    }


def verify_dataset(info: DatasetInfo, data: Path | None, cache_dir: Path | None) -> dict[str, Any]:
    """Return the states of a data set's files and the hash of its test pixels, for JSON.

    Raises:
        UnavailableError: The data set is not on this machine.
        IntegrityError: A file, or the pixels, are not the official ones.
    """
    own = info.family == FOLDER
    folder = data if own else find_dataset(info, data, cache_dir, "test")
    if folder is None and not own:
        if data is not None:
            locate(info, data)
        raise UnavailableError(f"{info.name} is not on this machine", f"fame datasets pull {info.name}")
    states = [] if folder is None else file_states(info, folder)
    if wrong := [state for state in states if state.state == "differs"]:
        found = ", ".join(f"{state.path} (sha256 {(state.sha256 or '')[:12]})" for state in wrong)
        raise IntegrityError(
            f"not the official files of {info.name}: {found}",
            f"move them away, then fame datasets pull {info.name}",
        )
    split = load_split(info.name, "test", data=data, cache_dir=cache_dir, offline=True)
    actual, expected = fixed_levels(split).sha256, info.pixels_sha256
    if expected not in (None, actual):
        raise IntegrityError(f"{info.name}: test pixels {actual[:12]}, expected {str(expected)[:12]}")
    return {
        "name": info.name,
        "path": str(folder),
        "files": [{"name": state.name, "sha256": state.sha256, "state": state.state} for state in states],
        "test_images": len(split.pixels),
        "test_pixels_sha256": actual,
        "test_pixels": "unverified" if expected is None else "official",
    }
