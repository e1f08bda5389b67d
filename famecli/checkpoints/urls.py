"""Addresses of weights: parsing of typed URLs, and locations of the index's files. No torch here."""

import os
import re
from dataclasses import dataclass
from urllib.parse import quote, urldefrag, urlsplit

from famecli.checkpoints.index import WeightsEntry
from famecli.errors import ArgumentError

URL = re.compile(r"(https?|file|hf)://.", re.IGNORECASE)
HUB = "https://huggingface.co"
SHA256 = re.compile(r"[0-9a-f]{64}")
# Name of a model's file by the hub's convention.
MODEL_FILE = "model.safetensors"
PART = r"[A-Za-z0-9][A-Za-z0-9._-]*"


@dataclass(frozen=True)
class HubFile:
    """File of a repository of the hub.

    Args:
        repository: `ORG/REPO`.
        file: Path of the file in the repository.
        revision: Branch, tag or commit.
    """

    repository: str
    file: str = MODEL_FILE
    revision: str = "main"

    @classmethod
    def parse(cls, text: str) -> "HubFile":
        """Return the file of `ORG/REPO/FILE@REVISION`, with or without hf:// before it.

        Raises:
            ArgumentError: The text is something else.
        """
        path, _, revision = (text[len("hf://") :] if is_hub(text) else text).partition("@")
        organisation, _, rest = path.partition("/")
        repository, _, file = rest.partition("/")
        names = re.fullmatch(PART, organisation) and re.fullmatch(PART, repository)
        if not names or ".." in file.split("/"):
            raise ArgumentError(
                f"{path!r} names no repository", "write ORG/REPO, or hf://ORG/REPO/FILE@REVISION"
            )
        return cls(f"{organisation}/{repository}", file.strip("/") or MODEL_FILE, revision or "main")

    @property
    def url(self) -> str:
        """Address of the file."""
        # A revision such as refs/pr/1 is one part of the path.
        return f"{hub_address()}/{self.repository}/resolve/{quote(self.revision, safe='')}/{quote(self.file)}"

    @property
    def name(self) -> str:
        """Name for the file on this machine: the repository's for `MODEL_FILE`, else the file's own."""
        return (self.repository if self.file == MODEL_FILE else self.file).rpartition("/")[2]

    def __str__(self) -> str:
        """Return the address that `parse` reads."""
        return f"hf://{self.repository}/{self.file}@{self.revision}"


@dataclass(frozen=True)
class Located:
    """File at an address, with its hash.

    Args:
        address: URL, or `hf://ORG/REPO/FILE@REVISION`.
        name: Name for the file on this machine.
        sha256: SHA-256 of the file.
        size_bytes: Size of the file; None where it is not known.
    """

    address: str
    name: str
    sha256: str
    size_bytes: int | None = None

    @property
    def url(self) -> str:
        """URL of the file."""
        return parse_url(self.address)[0]

    @property
    def pinned(self) -> str:
        """Address with the hash, which never stands for another file."""
        return f"{self.address}#sha256={self.sha256}"


def hub_address() -> str:
    """Return the address of the hub."""
    return os.environ.get("HF_ENDPOINT", HUB).rstrip("/")


def is_hub(text: str) -> bool:
    """Return whether a word is an address of the hub."""
    return text.lower().startswith("hf://")


def addresses(entry: WeightsEntry) -> list[str]:
    """Return the addresses of the file of an entry: under FAME_WEIGHTS_URL, then on its mirrors.

    Raises:
        ArgumentError: FAME_WEIGHTS_URL is not a URL.
    """
    bases = [base for base in (os.environ.get("FAME_WEIGHTS_URL", ""), *entry.mirrors) if base]
    return [parse_url(_under(base, entry.file))[0] for base in bases]


def _under(base: str, file: str) -> str:
    """Return the URL of a file under `base`; in hf://, the revision stays last."""
    path, at, revision = base.partition("@") if is_hub(base) else (base, "", "")
    return f"{path.rstrip('/')}/{quote(file)}{at}{revision}"


def parse_url(text: str) -> tuple[str, str]:
    """Return the address of a file, and the hash in `#sha256=HEX` or "".

    `hf://ORG/REPO/FILE@REVISION` is an address of huggingface.co, or of the server in HF_ENDPOINT; the
    default file is `MODEL_FILE`, the default revision `main`.

    Raises:
        ArgumentError: The text is not a supported URL.

    >>> parse_url("hf://org/repo/file.safetensors@v1")
    ('https://huggingface.co/org/repo/resolve/v1/file.safetensors', '')
    """
    if not URL.match(text):
        raise ArgumentError(f"{text!r} is not a supported URL", "use https://, http://, file:// or hf://")
    try:
        url, fragment = urldefrag(text)
        urlsplit(url)
    except ValueError as error:
        raise ArgumentError(f"{text!r} is not a URL ({error})") from error
    key, _, sha256 = fragment.lower().partition("=")
    if fragment and not (key == "sha256" and SHA256.fullmatch(sha256)):
        raise ArgumentError(f"{text!r} has no sha256 after #", "write #sha256= and 64 hexadecimal digits")
    return HubFile.parse(url).url if is_hub(url) else url, sha256
