"""Addresses of weights: parsing of typed URLs, and locations of the index's files. No torch here."""

import os
import re
from urllib.parse import quote, urldefrag, urlsplit

from famecli.checkpoints.index import WeightsEntry
from famecli.errors import UsageError

URL = re.compile(r"(https?|file|hf)://.", re.IGNORECASE)
HUB = "https://huggingface.co"
SHA256 = re.compile(r"[0-9a-f]{64}")


def addresses(entry: WeightsEntry) -> list[str]:
    """Return the addresses of the file of an entry: under FAME_WEIGHTS_URL, then on its mirrors.

    Raises:
        UsageError: FAME_WEIGHTS_URL is not a URL.
    """
    bases = [base for base in (os.environ.get("FAME_WEIGHTS_URL", ""), *entry.mirrors) if base]
    return [parse_url(_under(base, entry.file))[0] for base in bases]


def _under(base: str, file: str) -> str:
    """Return the URL of a file under `base`; in hf://, the revision stays last."""
    path, at, revision = base.partition("@") if base.lower().startswith("hf:") else (base, "", "")
    return f"{path.rstrip('/')}/{quote(file)}{at}{revision}"


def parse_url(text: str) -> tuple[str, str]:
    """Return the address of a file, and the hash in `#sha256=HEX` or "".

    `hf://ORG/REPO/FILE@REVISION` is an address of huggingface.co, or of the server in HF_ENDPOINT; the
    default revision is `main`.

    Raises:
        UsageError: The text is not a supported URL.

    >>> parse_url("hf://org/repo/file.safetensors@v1")
    ('https://huggingface.co/org/repo/resolve/v1/file.safetensors', '')
    """
    if not URL.match(text):
        raise UsageError(f"{text!r} is not a supported URL", "use https://, http://, file:// or hf://")
    try:
        url, fragment = urldefrag(text)
        urlsplit(url)
    except ValueError as error:
        raise UsageError(f"{text!r} is not a URL ({error})") from error
    key, _, sha256 = fragment.lower().partition("=")
    if fragment and not (key == "sha256" and SHA256.fullmatch(sha256)):
        raise UsageError(f"{text!r} has no sha256 after #", "write #sha256= and 64 hexadecimal digits")
    return _hub_url(url) if url.lower().startswith("hf:") else url, sha256


def _hub_url(url: str) -> str:
    path, _, revision = url[len("hf://") :].partition("@")
    organisation, repository, *file = [part for part in path.split("/") if part] + ["", ""]
    file = [part for part in file if part]
    if not (organisation and repository and file) or ".." in path.split("/"):
        raise UsageError(f"{url!r} names no file", "write hf://ORG/REPO/FILE@REVISION")
    hub = os.environ.get("HF_ENDPOINT", HUB).rstrip("/")
    # A revision such as refs/pr/1 is one part of the path.
    place = quote(revision or "main", safe="")
    return f"{hub}/{quote(organisation)}/{quote(repository)}/resolve/{place}/{quote('/'.join(file))}"
