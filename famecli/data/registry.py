"""The data sets by name: shapes, splits, files with their hashes, and where the files come from.

A new data set is one row here and one reader in `dataset.READERS`.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from famecli.errors import InputError, UsageError, did_you_mean

FOLDER = "folder"


@dataclass(frozen=True)
class DataFile:
    """A file of a data set as its official source serves it.

    Args:
        sha256: SHA-256 of the file, or None if nobody published one.
        size_bytes: Size of the file, or None if it is not known.
        content_sha256: SHA-256 of the uncompressed content, which a user's own copy is compared with: the
            bytes of an IDX file, the drawings of an archive.
        git_blob: Git blob hash of the file, a SHA-1, where no SHA-256 is published.
        members: Files in an archive that are read, with their SHA-256 where it is known; they may also lie
            unpacked beside it.
        splits: Splits that need the file; all if empty.
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
        """Return whether `split` (None: any split) needs the file."""
        return split is None or not self.splits or split in self.splits


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
        """Return the positions of a split in the official test images, or in the other official images.

        The validation split is the end of the official training images.

        Args:
            split: `train`, `valid` or `test`.
            images: Number of test images, or of training and validation images, in the files.

        Raises:
            InputError: The official files hold another number of images.
        """
        train = self.splits["train"]
        expected = self.splits["test"] if split == "test" else train + self.splits["valid"]
        if images != expected:
            part = "test" if split == "test" else "training"
            raise InputError(
                f"{self.name}: {images:,} {part} images, the official files hold {expected:,}",
                f"fame datasets verify {self.name}",
            )
        return slice(0, train) if split == "train" else slice(train if split == "valid" else 0, expected)


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

# Source: github.com/tensorflow/datasets, url_checksums/binarized_mnist.txt.
_AMAT_FILES = {
    "binarized_mnist_train.amat": DataFile(
        "ad693b29f94c14277b095f5238ddefbbdaaae0939789dd2f4f0205278cee3e4d", 78_400_000, splits=("train",)
    ),
    "binarized_mnist_valid.amat": DataFile(
        "1de3d397c40fe8eeb33dafd4099a1f665ec01e96d9be234aaeeac8a34930e2e2", 15_680_000, splits=("valid",)
    ),
    "binarized_mnist_test.amat": DataFile(
        "e6687bfea3f820c174f33b7865140b2a2dd2930ef786f35d45795fc193b5ab2c", 15_680_000, splits=("test",)
    ),
}

# Source: the blob that github.com/yburda/iwae, commit 78a6075, lists under this name.
_CHARDATA_FILES = {"chardata.mat": DataFile(None, git_blob="016a3536ffe5e1d38e42563a18d7a78bfaf643ec")}

# Source: github.com/tensorflow/datasets, url_checksums/omniglot.txt.
_DRAWING_FILES = {
    "images_background.zip": DataFile(
        "ad41ab679c8b5d90b271ef46be6987cc81211774a695c29dcc5367b2b26ee640",
        9_464_212,
        "a124c5a5a976a2325d0833f6ed0f099009f18539b78de62d281d2188a44c0646",
    ),
    "images_evaluation.zip": DataFile(
        "1f61a8f3366785b057fc117d9228e78a16e3d976c8953b2a10fcc74cf0609cee",
        6_462_886,
        "aea28c3ae3e13f70f5ca1e76e5dc886e9f9958b67730065a5efab5629664ea76",
    ),
}
_SMALL_DRAWING_FILES = {
    "images_background_small1.zip": DataFile(
        "f38eb80f801274ac2b4dff5b24289016bfaba4a7d5bb50deebf27104ad6cb8a4", 1_319_022
    ),
    "images_background_small2.zip": DataFile(
        "3ccaa407515a8778e5d0861875af38b17e418f301ad5bb3b5a6b65d901a41c7f", 1_580_917
    ),
}
_LAKE = (
    "Lake, Salakhutdinov, Tenenbaum 2015, "
    "Human-level concept learning through probabilistic program induction"
)

# Source: the archive from github.com/tensorflow/datasets, url_checksums/cifar10.txt; what is in it from
# torchvision-ruby (ankane), cifar10.rb.
_CIFAR10_FILES = {
    "cifar-10-binary.tar.gz": DataFile(
        "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
        170_052_171,
        members={
            f"cifar-10-batches-bin/{name}.bin": sha256
            for name, sha256 in (
                ("data_batch_1", "cee916563c9f80d84e3cc88e17fdc0941787f1244f00a67874d45b261883ada5"),
                ("data_batch_2", "a591ca11fa1708a91ee40f54b3da4784ccd871ecf2137de63f51ada8b3fa57ed"),
                ("data_batch_3", "bbe8596564c0f86427f876058170b84dac6670ddf06d79402899d93ceea26f67"),
                ("data_batch_4", "014e562d6e23c72197cc727519169a60359f5eccd8945ad5a09d710285ff4e48"),
                ("data_batch_5", "755304fc0b379caeae8c14f0dac912fbc7d6cd469eb67a1029a08a39453a9add"),
                ("test_batch", "8e2eb146ae340b09e24670f29cabc6326dba54da8789dab6768acf480273f65b"),
            )
        },
    )
}

# Source: github.com/tensorflow/datasets, url_checksums/imagenet_resized.txt and downsampled_imagenet.txt.
_IMAGENET32_FILES = {
    "Imagenet32_train_npz.zip": DataFile(
        "94226337ecc1b0309d9fcd0167127aaadc931587035fbcb53925235edbaec4fc",
        3_580_435_279,
        members={f"Imagenet32_train_npz/train_data_batch_{batch}.npz": None for batch in range(1, 11)},
        splits=("train", "valid"),
    ),
    "Imagenet32_val_npz.zip": DataFile(
        "013990e6dec1237dcd1f9beadbab81ead6604cc119af5cacbfb59ae28148377a",
        139_697_668,
        members={"Imagenet32_val_npz/val_data.npz": None},
        splits=("test",),
    ),
}
_IMAGENET32_OLD_FILES = {
    "train_32x32.tar": DataFile(
        "244a323d48f8d72f65ad8b54658c01fed68d2d7bdc77ccb43da58c11e94224e5",
        4_113_018_880,
        splits=("train", "valid"),
    ),
    "valid_32x32.tar": DataFile(
        "862e559462b24cf736212a19f6b0d47b55c2dc8ebdaa95ccecfe71260124c8f7", 161_474_560, splits=("test",)
    ),
}
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
    files=_MNIST_FILES,
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
)

_DRAWINGS = DatasetInfo(
    name="omniglot-28",
    title="OMNIGLOT drawings of all 50 alphabets shrunk to 28x28, bits by chance; not Burda's images",
    family="omniglot-28",
    shape=(1, 28, 28),
    levels=2,
    binarization="dynamic",
    splits={"train": 22_722, "valid": 1_623, "test": 8_115},
    files=_DRAWING_FILES,
    mirrors=(
        "https://github.com/brendenlake/omniglot/raw/master/python/",
        "https://raw.githubusercontent.com/brendenlake/omniglot/master/python/",
    ),
    citation=_LAKE,
    unit="nats",
    rule="by drawer: 1 to 14 train, 15 valid, 16 to 20 test; 105x105 to 28x28 by exact area averages",
    source=_TFDS,
    pixels_sha256="38a6970df72710bdbbf6f6598cec5bca58f7c2d0e30e51e0118ba2d84dadb2e5",
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
            files=_AMAT_FILES,
            mirrors=("http://www.cs.toronto.edu/~larocheh/public/datasets/binarized_mnist/",),
            citation="Larochelle, Murray 2011, The neural autoregressive distribution estimator",
            rule="a file for each split",
            source=_TFDS,
            pixels_sha256=None,
        ),
        DatasetInfo(
            name="omniglot",
            title="OMNIGLOT characters of Burda, each pixel a random bit with its grey value as probability",
            family="omniglot",
            shape=(1, 28, 28),
            levels=2,
            binarization="dynamic",
            splits={"train": 23_000, "valid": 1_345, "test": 8_070},
            files=_CHARDATA_FILES,
            mirrors=("https://github.com/yburda/iwae/raw/master/datasets/OMNIGLOT/",),
            citation="Burda, Grosse, Salakhutdinov 2016, Importance weighted autoencoders; " + _LAKE,
            unit="nats",
            rule="as IWAE: shuffled by RandomState(123), then the last 1,345 training images are valid",
            source="the blob's name in github.com/yburda/iwae (SHA-1); no SHA-256 is published",
        ),
        _DRAWINGS,
        dataclasses.replace(
            _DRAWINGS,
            name="omniglot-small",
            title="OMNIGLOT drawings of the eight alphabets of the small sets, as omniglot-28",
            family="omniglot-small",
            splits={"train": 3_388, "valid": 242, "test": 1_210},
            files=_SMALL_DRAWING_FILES,
            rule=_DRAWINGS.rule + "; a drawing in both archives counts once",
            pixels_sha256="fd4097d355d62a03a96c2db9b111d9229556012937157572ac73a46859dd9547",
        ),
        DatasetInfo(
            name="cifar10",
            title="CIFAR-10, tiny colour photographs",
            family="cifar10",
            shape=(3, 32, 32),
            levels=256,
            binarization="none",
            splits={"train": 45_000, "valid": 5_000, "test": 10_000},
            files=_CIFAR10_FILES,
            mirrors=("https://www.cs.toronto.edu/~kriz/", "https://cave.cs.toronto.edu/kriz/"),
            citation="Krizhevsky 2009, Learning multiple layers of features from tiny images",
            unit="bits/dim",
            rule="the last 5,000 of the official training images are valid",
            source=_TFDS + "; what is in the archive: torchvision-ruby",
            pixels_sha256="177777c33ba79825320efa646ad04a94bdc3c80e4ebe3bd21724f8cdfd4b9d56",
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
            files=_IMAGENET32_FILES,
            mirrors=(
                "https://image-net.org/data/downsample/",
                "http://www.image-net.org/image/downsample/",
            ),
            citation="Chrabaszcz, Loshchilov, Hutter 2017, A downsampled variant of ImageNet",
            unit="bits/dim",
            rule=_IMAGENET32_RULE,
            source=_TFDS + "; none is known of the npz files in them",
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
            files=_IMAGENET32_OLD_FILES,
            mirrors=("http://www.image-net.org/small/", "http://image-net.org/small/"),
            citation="van den Oord, Kalchbrenner, Kavukcuoglu 2016, Pixel recurrent neural networks",
            unit="bits/dim",
            rule=_IMAGENET32_RULE + "; in the order of the archive",
            source=_TFDS,
        ),
        DatasetInfo(
            name=FOLDER,
            title="Images of your own: --data names a folder of them, or an npz or npy file",
            family=FOLDER,
            shape=(0, 0, 0),
            levels=256,
            binarization="none",
            splits={"train": 0, "valid": 0, "test": 0},
            files={},
            mirrors=(),
            citation="",
            unit="bits/dim",
            rule="folders train, valid and test if there are; else of ten images in order the last is test, "
            "the one before it valid",
        ),
    )
}


def dataset_info(name: str) -> DatasetInfo:
    """Return the data set called `name`; `folder` has no shape yet: see `famecli.data.folder.describe`.

    Raises:
        UsageError: There is no such data set.
    """
    if name in DATASETS:
        return DATASETS[name]
    raise UsageError(f"unknown data set {name!r}", did_you_mean(name, DATASETS, "data sets"))
