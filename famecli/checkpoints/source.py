"""The file of a checkpoint, by its path, the folder of its run, a name or a URL. No torch here."""

from contextlib import suppress
from pathlib import Path

from famecli.checkpoints.claims import read_header
from famecli.checkpoints.index import named_weights, unknown_checkpoint
from famecli.checkpoints.store import Store
from famecli.errors import FameError, InputError, UnavailableError
from famecli.files import STDIN

# Of a run's folder, the first one first.
RUN_FILES = ("best.safetensors", "last.safetensors")


def checkpoint_file(name: str, store: Store) -> Path:
    """Return the checkpoint's file, fetched if it is not here.

    Args:
        name: File, run folder, name of weights, URL, or `-` for stdin.
        store: The weights that have names.

    Raises:
        UsageError: Nothing is called that, or a URL tells no hash.
        UnavailableError: The weights cannot be had.
        IntegrityError: No address has the right file.
        InputError: No such file, or a run folder without a checkpoint.
    """
    path = Path(name)
    if path.is_dir():
        return _in_run_folder(path)
    if path == STDIN or path.exists():
        return path
    if (found := store.get(name)) is not None:
        return found
    if path.suffix or len(path.parts) > 1:
        raise InputError(f"cannot read checkpoint {path}: no such file", "fame train writes one")
    raise unknown_checkpoint(name)


def weights_with_hash(kind: str, sha256: str, name: str, store: Store, hint: str = "") -> Path:
    """Return the checkpoint that has some weights, among those with names; headers alone are read.

    Args:
        kind: `ema` or `raw`.
        sha256: SHA-256 of the weights.
        name: Name of the weights, which are fetched if no file on this machine has them.
        store: The weights that have names.
        hint: What to do where no weights have the hash.

    Raises:
        UnavailableError: No weights with a name have this hash.
    """
    for _, path, _ in store.installed():
        with suppress(FameError):
            hashes = read_header(path).metadata.get("weights_sha256")
            if isinstance(hashes, dict) and hashes.get(kind) == sha256:
                return path
    if (entry := named_weights(name)) is not None and store.find(entry) is None:
        return store.fetch(entry)
    raise UnavailableError(
        f"the file was written with weights {sha256[:12]} ({name}), which are not here", hint
    )


def _in_run_folder(folder: Path) -> Path:
    for name in RUN_FILES:
        if (folder / name).is_file():
            return folder / name
    raise InputError(f"no checkpoint in {folder}", f"a run folder holds {' or '.join(RUN_FILES)}")
