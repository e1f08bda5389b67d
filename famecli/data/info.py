"""What is known of a data set and of its files before any of them is read."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from famecli.errors import InputError


@dataclass(frozen=True)
class DataFile:
    """One file of a data set as its official source serves it.

    Args:
        sha256: Of the file; None where none is published.
        size_bytes: Of the same.
        content_sha256: Of what is in it, uncompressed: what the file in a user's folder is held against.
        git_blob: Its name in the git repository that publishes it, a SHA-1: for a file whose SHA-256
            nobody published.
        members: The files in an archive that are read, with their SHA-256 where it is known. They may also
            be in the folder themselves, unpacked, with or without their folder.
        splits: Which splits need the file; all if empty.
    """

    sha256: str | None
    size_bytes: int | None = None
    content_sha256: str | None = None
    git_blob: str | None = None
    members: Mapping[str, str | None] = field(default_factory=dict)
    splits: tuple[str, ...] = ()

    @property
    def known(self) -> bool:
        """Whether an official hash of the file is known."""
        return self.sha256 is not None or self.git_blob is not None

    def needed_for(self, split: str | None) -> bool:
        """Return whether a split, or for None any, needs the file."""
        return split is None or not self.splits or split in self.splits


@dataclass(frozen=True)
class DatasetInfo:
    """What is known of a data set before any file is read.

    Args:
        name: As typed after `--dataset`.
        title: In words.
        family: Folder of its files in the cache and in a data root, and key of its reader.
        shape: `(C, H, W)`.
        levels: Values that a pixel has in the model.
        binarization: `dynamic` if a pixel is the chance of a bit, `fixed` if the files hold the bits,
            else `none`.
        splits: Images in each split, by name.
        files: By file name at the source.
        mirrors: Addresses that a file name is appended to.
        citation: Whom to cite.
        unit: In which its NLL is reported, as papers do.
        rule: How the splits are made, in words.
        source: Where the hashes of the files come from.
        pixels_sha256: Of the levels of the whole test split as `evaluate-nll` scores them; None where they
            were never measured on the official files.
        pickles: Names that its files have in a version that consists of pickles, which are refused.
        bits_of: Data set of the same files whose chances are turned into bits once and for all: those by
            which that one is scored, and for training those of the same seed.
    """

    name: str
    title: str
    family: str
    shape: tuple[int, int, int]
    levels: int
    binarization: Literal["dynamic", "fixed", "none"]
    splits: Mapping[str, int]
    files: Mapping[str, DataFile]
    mirrors: tuple[str, ...]
    citation: str
    unit: Literal["nats", "bits/dim"]
    rule: str = ""
    source: str = ""
    pixels_sha256: str | None = None
    pickles: tuple[str, ...] = ()
    bits_of: str | None = None

    def chosen(self, split: str, images: int) -> slice:
        """Return which of the official test or training images are a split; validation is the last of these.

        Args:
            split: `train`, `valid` or `test`.
            images: How many the files hold, those of the test or those of training and validation.

        Raises:
            InputError: The files hold another number of images than the official ones.
        """
        train = self.splits["train"]
        expected = self.splits["test"] if split == "test" else train + self.splits["valid"]
        if images != expected:
            part = "test" if split == "test" else "training"
            raise InputError(
                f"{self.name}: {images:,} {part} images, the official files hold {expected:,}",
                f"fame datasets verify {self.name}",
            )
        starts = {"train": (0, train), "valid": (train, expected), "test": (0, expected)}
        return slice(*starts[split])
