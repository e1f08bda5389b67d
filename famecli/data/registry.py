"""The data sets by name: shapes, splits, files with their hashes, and where the files come from.

A new data set is one row here and one reader in `dataset.READERS`.
"""

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from famecli.errors import UsageError


@dataclass(frozen=True)
class DataFile:
    """One file of a data set.

    Args:
        sha256: Of the file as its official source serves it.
        size_bytes: Of the same.
        content_sha256: Of what is in it, uncompressed: what the file in a user's folder is held against.
    """

    sha256: str
    size_bytes: int
    content_sha256: str


@dataclass(frozen=True)
class DatasetInfo:
    """What is known of a data set before any file is read.

    Args:
        name: As typed after `--dataset`.
        title: In words.
        family: Folder of its files in the cache and in a data root, and key of its reader.
        shape: `(C, H, W)`.
        levels: Values that a pixel has in the model.
        binarization: `dynamic` if a pixel is the chance of a bit, else `none`.
        splits: Images in each split, by name.
        files: By file name at the source.
        mirrors: Addresses that a file name is appended to.
        citation: Whom to cite.
        unit: In which its NLL is reported, as papers do.
    """

    name: str
    title: str
    family: str
    shape: tuple[int, int, int]
    levels: int
    binarization: Literal["dynamic", "none"]
    splits: Mapping[str, int]
    files: Mapping[str, DataFile]
    mirrors: tuple[str, ...]
    citation: str
    unit: Literal["nats", "bits/dim"]


# Source: hashes and sizes of the .gz files as several public projects pin them, torch.rb among them;
# those of the content from a copy whose mean and deviation are the official ones.
_MNIST_FILES = {
    "train-images-idx3-ubyte.gz": DataFile(
        "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
        9_912_422,
        "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    ),
    "train-labels-idx1-ubyte.gz": DataFile(
        "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
        28_881,
        "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    ),
    "t10k-images-idx3-ubyte.gz": DataFile(
        "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
        1_648_877,
        "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    ),
    "t10k-labels-idx1-ubyte.gz": DataFile(
        "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
        4_542,
        "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
    ),
}
_MNIST_MIRRORS = (
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
    "http://yann.lecun.com/exdb/mnist/",
)
_MNIST_SPLITS = {"train": 50_000, "valid": 10_000, "test": 10_000}
_MNIST_CITATION = (
    "LeCun, Bottou, Bengio, Haffner 1998, Gradient-based learning applied to document recognition"
)

DATASETS = {
    info.name: info
    for info in (
        DatasetInfo(
            name="mnist",
            title="MNIST digits, each pixel a random bit whose chance is its grey value",
            family="mnist",
            shape=(1, 28, 28),
            levels=2,
            binarization="dynamic",
            splits=_MNIST_SPLITS,
            files=_MNIST_FILES,
            mirrors=_MNIST_MIRRORS,
            citation=_MNIST_CITATION,
            unit="nats",
        ),
        DatasetInfo(
            name="mnist-grey",
            title="MNIST digits in 256 greys",
            family="mnist",
            shape=(1, 28, 28),
            levels=256,
            binarization="none",
            splits=_MNIST_SPLITS,
            files=_MNIST_FILES,
            mirrors=_MNIST_MIRRORS,
            citation=_MNIST_CITATION,
            unit="bits/dim",
        ),
    )
}


def dataset_info(name: str) -> DatasetInfo:
    """Return the data set called `name`.

    Raises:
        UsageError: There is none.
    """
    if name in DATASETS:
        return DATASETS[name]
    close = difflib.get_close_matches(name, DATASETS, n=1)
    guess = f"did you mean {close[0]}? " if close else ""
    raise UsageError(f"unknown data set {name!r}", f"{guess}data sets: {', '.join(DATASETS)}")
