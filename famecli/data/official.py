"""The official files of the data sets: names, sizes, and hashes with their sources."""

from collections.abc import Mapping
from dataclasses import dataclass, field

DIGITS = tuple("0123456789")
# Source: batches.meta.txt in CIFAR-10's archive.
CIFAR10_CLASSES = (
    "airplane",
    "automobile",
    "bird",
    "cat",
    "deer",
    "dog",
    "frog",
    "horse",
    "ship",
    "truck",
)
# OMNIGLOT's alphabets, the folders of its archives; the second ones are those of the small archives.
ALPHABETS = (
    "Alphabet_of_the_Magi",
    "Angelic",
    "Anglo-Saxon_Futhorc",
    "Arcadian",
    "Armenian",
    "Asomtavruli_(Georgian)",
    "Atemayar_Qelisayer",
    "Atlantean",
    "Aurek-Besh",
    "Avesta",
    "Balinese",
    "Bengali",
    "Blackfoot_(Canadian_Aboriginal_Syllabics)",
    "Braille",
    "Burmese_(Myanmar)",
    "Cyrillic",
    "Early_Aramaic",
    "Futurama",
    "Ge_ez",
    "Glagolitic",
    "Grantha",
    "Greek",
    "Gujarati",
    "Gurmukhi",
    "Hebrew",
    "Inuktitut_(Canadian_Aboriginal_Syllabics)",
    "Japanese_(hiragana)",
    "Japanese_(katakana)",
    "Kannada",
    "Keble",
    "Korean",
    "Latin",
    "Malay_(Jawi_-_Arabic)",
    "Malayalam",
    "Manipuri",
    "Mkhedruli_(Georgian)",
    "Mongolian",
    "N_Ko",
    "Ojibwe_(Canadian_Aboriginal_Syllabics)",
    "Old_Church_Slavonic_(Cyrillic)",
    "Oriya",
    "Sanskrit",
    "Sylheti",
    "Syriac_(Estrangelo)",
    "Syriac_(Serto)",
    "Tagalog",
    "Tengwar",
    "Tibetan",
    "Tifinagh",
    "ULOG",
)
SMALL_ALPHABETS = (
    "Balinese",
    "Early_Aramaic",
    "Greek",
    "Japanese_(katakana)",
    "Korean",
    "Latin",
    "Sanskrit",
    "Tagalog",
)


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


# Source: hashes and sizes of the .gz files as several public projects pin them, torch.rb among them;
# those of the content from a copy whose mean and deviation are the official ones.
MNIST_FILES = {
    "train-images-idx3-ubyte.gz": DataFile(
        "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
        9_912_422,
        "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
        splits=("train", "valid"),
    ),
    "train-labels-idx1-ubyte.gz": DataFile(
        "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
        28_881,
        "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
        splits=("train", "valid"),
    ),
    "t10k-images-idx3-ubyte.gz": DataFile(
        "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
        1_648_877,
        "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
        splits=("test",),
    ),
    "t10k-labels-idx1-ubyte.gz": DataFile(
        "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
        4_542,
        "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
        splits=("test",),
    ),
}

# Source: github.com/tensorflow/datasets, url_checksums/binarized_mnist.txt.
AMAT_FILES = {
    "binarized_mnist_train.amat": DataFile(
        "ad693b29f94c14277b095f5238ddefbbdaaae0939789dd2f4f0205278cee3e4d",
        78_400_000,
        "ad693b29f94c14277b095f5238ddefbbdaaae0939789dd2f4f0205278cee3e4d",
        splits=("train",),
    ),
    "binarized_mnist_valid.amat": DataFile(
        "1de3d397c40fe8eeb33dafd4099a1f665ec01e96d9be234aaeeac8a34930e2e2",
        15_680_000,
        "1de3d397c40fe8eeb33dafd4099a1f665ec01e96d9be234aaeeac8a34930e2e2",
        splits=("valid",),
    ),
    "binarized_mnist_test.amat": DataFile(
        "e6687bfea3f820c174f33b7865140b2a2dd2930ef786f35d45795fc193b5ab2c",
        15_680_000,
        "e6687bfea3f820c174f33b7865140b2a2dd2930ef786f35d45795fc193b5ab2c",
        splits=("test",),
    ),
}

# Source: the blob that github.com/yburda/iwae, commit 78a6075, lists under this name.
CHARDATA_FILES = {"chardata.mat": DataFile(None, git_blob="016a3536ffe5e1d38e42563a18d7a78bfaf643ec")}

# Source: github.com/tensorflow/datasets, url_checksums/omniglot.txt.
DRAWING_FILES = {
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
SMALL_DRAWING_FILES = {
    "images_background_small1.zip": DataFile(
        "f38eb80f801274ac2b4dff5b24289016bfaba4a7d5bb50deebf27104ad6cb8a4", 1_319_022
    ),
    "images_background_small2.zip": DataFile(
        "3ccaa407515a8778e5d0861875af38b17e418f301ad5bb3b5a6b65d901a41c7f", 1_580_917
    ),
}

# Source: the archive from github.com/tensorflow/datasets, url_checksums/cifar10.txt; what is in it from
# torchvision-ruby (ankane), cifar10.rb.
CIFAR10_FILES = {
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
IMAGENET32_FILES = {
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
IMAGENET32_OLD_FILES = {
    "train_32x32.tar": DataFile(
        "244a323d48f8d72f65ad8b54658c01fed68d2d7bdc77ccb43da58c11e94224e5",
        4_113_018_880,
        splits=("train", "valid"),
    ),
    "valid_32x32.tar": DataFile(
        "862e559462b24cf736212a19f6b0d47b55c2dc8ebdaa95ccecfe71260124c8f7", 161_474_560, splits=("test",)
    ),
}
