"""Options that prepare the user's images."""

import dataclasses
from dataclasses import dataclass
from typing import Annotated

import typer

from famecli.data.preparation import Crop, Preparation
from famecli.errors import UsageError

IMAGES = "Images of your own"

Resize = Annotated[
    int | None,
    typer.Option(
        "--resize", min=1, metavar="N", help="Resize your images to NxN pixels.", rich_help_panel=IMAGES
    ),
]
CropTo = Annotated[
    Crop | None,
    typer.Option(
        "--crop",
        metavar="center|none",
        help="With --resize: cut off what exceeds a square (default), or stretch.",
        rich_help_panel=IMAGES,
    ),
]
Pad = Annotated[
    bool,
    typer.Option(
        "--pad", help="With --resize: keep whole images, with black borders.", rich_help_panel=IMAGES
    ),
]
Convert = Annotated[
    bool,
    typer.Option(
        "--convert",
        help="Convert what is lost: 16 bits, colours for a grey model, CMYK, transparency, several frames.",
        rich_help_panel=IMAGES,
    ),
]


@dataclass(frozen=True, kw_only=True)
class Preparing:
    """Preparation of the user's images."""

    resize: Resize = None
    crop: CropTo = None
    pad: Pad = False
    convert: Convert = False

    def preparation(self, recorded: Preparation | None = None) -> Preparation:
        """Return the preparation; without options, the one recorded for a model's training images.

        Raises:
            UsageError: The options do not go together.
        """
        recorded = recorded or Preparation()
        convert = self.convert or recorded.convert
        if (self.resize, self.crop, self.pad) == (None, None, False):
            return dataclasses.replace(recorded, convert=convert)
        return Preparation(self.resize, self.crop, self.pad, convert, recorded.rule)

    def refuse(self, what: str) -> None:
        """Refuse the options for images that are taken as they are.

        Raises:
            UsageError: One is given; the message says that `what` is taken as it is.
        """
        for flag, value in vars(self).items():
            if value:
                raise UsageError(f"{what} taken as they are", f"leave --{flag} out")
