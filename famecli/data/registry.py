"""The data sets by name: shapes, splits, files with their hashes, and where the files come from.

A new data set is one row here and one reader in `dataset.READERS`.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from famecli.data.official import (
    ALPHABETS,
    AMAT_FILES,
    CHARDATA_FILES,
    CIFAR10_CLASSES,
    CIFAR10_FILES,
    DIGITS,
    DRAWING_FILES,
    IMAGENET32_FILES,
    IMAGENET32_OLD_FILES,
    MNIST_FILES,
    SMALL_ALPHABETS,
    SMALL_DRAWING_FILES,
)
from famecli.data.official import DataFile as DataFile
from famecli.data.preparation import Preparation
from famecli.errors import ArgumentError, InputError, did_you_mean

FOLDER = "folder"


@dataclass(frozen=True)
class DatasetInfo:
    """A data set, before any of its files is read.

    Args:
        name: Name of the data set.
        title: Description in one line.
        family: Folder of its files in the cache and in a data root, and key of its reader.
        shape: `(C, H, W)` of an image.
        levels: Number of values of a pixel in the model.
        binarization: `dynamic` if a pixel is the probability of a bit, `fixed` if it is a bit, else `none`.
        splits: Number of images in each split.
        files: Files by their name at the source.
        mirrors: Addresses that a file name is appended to.
        citation: Publication to cite.
        unit: Unit in which papers report the NLL.
        rule: Rule that makes the splits, in words.
        source: Origin of the file hashes.
        pixels_sha256: SHA-256 of the scored levels of the test split; None if not measured on official files.
        pickles: Names of the files of a pickled version, which are refused.
        bits_of: Data set with the probabilities from which bits are drawn once, with seed 0.
        classes: Names of the classes; empty without labels.
        preparation: For `folder`, preparation of the images.
        labels: For `folder`, class of each image of each split, an index of `classes`.
        names: For `folder`, names of the images of each split.
        told: For `folder`, lines for the user about what was found.
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
    classes: tuple[str, ...] = ()
    preparation: Preparation | None = None
    labels: Mapping[str, tuple[int, ...]] = field(default_factory=dict, repr=False)
    names: Mapping[str, tuple[str, ...]] = field(default_factory=dict, repr=False)
    told: tuple[str, ...] = ()

    def positions(self, split: str) -> range:
        """Return the positions of a split in the official test images, or in the other official images.

        The validation split is the end of the official training images.
        """
        first = self.splits["train"] if split == "valid" else 0
        return range(first, first + self.splits[split])

    def chosen(self, split: str, images: int) -> slice:
        """Return `positions` as a slice, after a check of the number of images.

        Args:
            split: `train`, `valid` or `test`.
            images: Number of test images, or of training and validation images, in the files.

        Raises:
            InputError: The official files hold another number of images.
        """
        expected = self.positions(split if split == "test" else "valid").stop
        if images != expected:
            part = "test" if split == "test" else "training"
            raise InputError(
                f"{self.name}: {images:,} {part} images, the official files hold {expected:,}",
                f"fame datasets verify {self.name}",
            )
        where = self.positions(split)
        return slice(where.start, where.stop)


_LAKE = (
    "Lake, Salakhutdinov, Tenenbaum 2015, "
    "Human-level concept learning through probabilistic program induction"
)
_IMAGENET32_RULE = "the official validation images are test, the last 10,000 training images valid"
_TFDS = "url checksums of tensorflow/datasets"

_MNIST = DatasetInfo(
    name="mnist",
    title="MNIST digits, each pixel a random bit with its grey value as probability",
    family="mnist",
    shape=(1, 28, 28),
    levels=2,
    binarization="dynamic",
    splits={"train": 50_000, "valid": 10_000, "test": 10_000},
    files=MNIST_FILES,
    mirrors=(
        "https://ossci-datasets.s3.amazonaws.com/mnist/",
        "https://storage.googleapis.com/cvdf-datasets/mnist/",
        "http://yann.lecun.com/exdb/mnist/",
    ),
    citation="LeCun, Bottou, Bengio, Haffner 1998, Gradient-based learning applied to document recognition",
    unit="nats",
    rule="the last 10,000 of the official training images are valid",
    source="torch.rb and other projects that pin the files; content: from a copy with the official mean",
    pixels_sha256="2494ce85c260a5853318399661c49294935320b4e3e676a87c16de89f441c034",
    classes=DIGITS,
)

_DRAWINGS = DatasetInfo(
    name="omniglot-28",
    title="OMNIGLOT drawings of all 50 alphabets shrunk to 28x28, pixels as random bits; not Burda's images",
    family="omniglot-28",
    shape=(1, 28, 28),
    levels=2,
    binarization="dynamic",
    splits={"train": 22_722, "valid": 1_623, "test": 8_115},
    files=DRAWING_FILES,
    mirrors=(
        "https://github.com/brendenlake/omniglot/raw/master/python/",
        "https://raw.githubusercontent.com/brendenlake/omniglot/master/python/",
    ),
    citation=_LAKE,
    unit="nats",
    rule="by drawer: 1 to 14 train, 15 valid, 16 to 20 test; 105x105 to 28x28 by exact area averages",
    source=_TFDS,
    pixels_sha256="38a6970df72710bdbbf6f6598cec5bca58f7c2d0e30e51e0118ba2d84dadb2e5",
    classes=ALPHABETS,
)

DATASETS = {
    info.name: info
    for info in (
        _MNIST,
        dataclasses.replace(
            _MNIST,
            name="mnist-grey",
            title="MNIST digits in 256 greys",
            levels=256,
            binarization="none",
            unit="bits/dim",
            pixels_sha256="6d87418db22cc8025d05968bec9bd5c3932904b23485740db143a061a2c9d161",
        ),
        dataclasses.replace(
            _MNIST,
            name="mnist-fixed",
            title="MNIST digits with bits drawn once, from seed 0; not Larochelle's bits",
            binarization="fixed",
            bits_of="mnist",
        ),
        dataclasses.replace(
            _MNIST,
            name="mnist-static",
            title="MNIST digits with the fixed bits of Larochelle",
            family="mnist-static",
            binarization="fixed",
            files=AMAT_FILES,
            mirrors=("http://www.cs.toronto.edu/~larocheh/public/datasets/binarized_mnist/",),
            citation="Larochelle, Murray 2011, The neural autoregressive distribution estimator",
            rule="a file for each split",
            source=_TFDS,
            pixels_sha256="ca0294c3b8d984c7a1dc891015a8eea6f37bae59a34e35ea0fc8c47110a8dd86",
            classes=(),
        ),
        DatasetInfo(
            name="omniglot",
            title="OMNIGLOT characters of Burda, each pixel a random bit with its grey value as probability",
            family="omniglot",
            shape=(1, 28, 28),
            levels=2,
            binarization="dynamic",
            splits={"train": 23_000, "valid": 1_345, "test": 8_070},
            files=CHARDATA_FILES,
            mirrors=("https://github.com/yburda/iwae/raw/master/datasets/OMNIGLOT/",),
            citation="Burda, Grosse, Salakhutdinov 2016, Importance weighted autoencoders; " + _LAKE,
            unit="nats",
            rule="as IWAE: shuffled by RandomState(123), then the last 1,345 training images are valid",
            source="the blob's name in github.com/yburda/iwae (SHA-1); no SHA-256 is published",
            classes=tuple(map(str, range(50))),
        ),
        _DRAWINGS,
        dataclasses.replace(
            _DRAWINGS,
            name="omniglot-small",
            title="OMNIGLOT drawings of the eight alphabets of the small sets, as omniglot-28",
            family="omniglot-small",
            splits={"train": 3_388, "valid": 242, "test": 1_210},
            files=SMALL_DRAWING_FILES,
            rule=_DRAWINGS.rule + "; a drawing in both archives counts once",
            pixels_sha256="fd4097d355d62a03a96c2db9b111d9229556012937157572ac73a46859dd9547",
            classes=SMALL_ALPHABETS,
        ),
        DatasetInfo(
            name="cifar10",
            title="CIFAR-10, tiny colour photographs",
            family="cifar10",
            shape=(3, 32, 32),
            levels=256,
            binarization="none",
            splits={"train": 45_000, "valid": 5_000, "test": 10_000},
            files=CIFAR10_FILES,
            mirrors=("https://www.cs.toronto.edu/~kriz/", "https://cave.cs.toronto.edu/kriz/"),
            citation="Krizhevsky 2009, Learning multiple layers of features from tiny images",
            unit="bits/dim",
            rule="the last 5,000 of the official training images are valid",
            source=_TFDS + "; what is in the archive: torchvision-ruby",
            pixels_sha256="177777c33ba79825320efa646ad04a94bdc3c80e4ebe3bd21724f8cdfd4b9d56",
            classes=CIFAR10_CLASSES,
            pickles=("cifar-10-python.tar.gz", "cifar-10-batches-py"),
        ),
        DatasetInfo(
            name="imagenet32",
            title="ImageNet at 32x32, newer version (Chrabaszcz, box filter)",
            family="imagenet32",
            shape=(3, 32, 32),
            levels=256,
            binarization="none",
            splits={"train": 1_271_167, "valid": 10_000, "test": 50_000},
            files=IMAGENET32_FILES,
            mirrors=(
                "https://image-net.org/data/downsample/",
                "http://www.image-net.org/image/downsample/",
            ),
            citation="Chrabaszcz, Loshchilov, Hutter 2017, A downsampled variant of ImageNet",
            unit="bits/dim",
            rule=_IMAGENET32_RULE,
            source=_TFDS + "; no hash is known of the npz files in them",
            pickles=("Imagenet32_train.zip", "Imagenet32_val.zip", "train_data_batch_1", "val_data"),
        ),
        DatasetInfo(
            name="imagenet32-old",
            title="ImageNet at 32x32, older version (van den Oord); other pixels than imagenet32",
            family="imagenet32-old",
            shape=(3, 32, 32),
            levels=256,
            binarization="none",
            splits={"train": 1_271_149, "valid": 10_000, "test": 49_999},
            files=IMAGENET32_OLD_FILES,
            mirrors=("http://www.image-net.org/small/", "http://image-net.org/small/"),
            citation="van den Oord, Kalchbrenner, Kavukcuoglu 2016, Pixel recurrent neural networks",
            unit="bits/dim",
            rule=_IMAGENET32_RULE + "; in the order of the archive",
            source=_TFDS,
        ),
        DatasetInfo(
            name=FOLDER,
            title="Images of your own, in a folder, archive or array file",
            family=FOLDER,
            shape=(0, 0, 0),
            levels=256,
            binarization="none",
            splits={"train": 0, "valid": 0, "test": 0},
            files={},
            mirrors=(),
            citation="",
            unit="bits/dim",
            rule="folders or arrays named train, valid, test if there are; else by a hash of the pixels",
        ),
    )
}


def shared_images(trained_on: str | None, name: str, split: str) -> str:
    """Return a warning that a split holds training images of another data set; empty if it does not."""
    families = {DATASETS[each].family for each in (trained_on, name) if each in DATASETS}
    if split != "valid" or families != {"mnist", "mnist-static"}:
        return ""
    return (
        f"validation images of {name} are training images of {trained_on}, on which the model was trained: "
        "their NLL is too low; the test images are the same in both"
    )


def dataset_info(name: str) -> DatasetInfo:
    """Return the data set called `name`; `folder` has no shape yet: see `famecli.data.folder.describe`.

    Raises:
        ArgumentError: There is no such data set.
    """
    if name in DATASETS:
        return DATASETS[name]
    own = f"for images of your own: `dataset={FOLDER}`, and their path as `data`"
    hint = own if "/" in name or "." in name else did_you_mean(name, DATASETS, "data sets")
    raise ArgumentError(f"unknown data set {name!r}", hint)
