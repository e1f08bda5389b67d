"""Options that prepare the user's images."""

from typing import Annotated

import typer

from famecli.data.preparation import Preparation

IMAGES = "Images of your own"

# Preparation of the user's images; the rule of their splits is that of the run or of the model.
Preparing = Annotated[
    Preparation,
    {
        "resize": typer.Option(
            "--resize", min=1, metavar="N", help="Resize your images to NxN pixels.", rich_help_panel=IMAGES
        ),
        "crop": typer.Option(
            "--crop",
            metavar="center|none",
            help="With --resize: cut off what exceeds a square (default), or stretch.",
            rich_help_panel=IMAGES,
        ),
        "pad": typer.Option(
            "--pad", help="With --resize: keep whole images, with black borders.", rich_help_panel=IMAGES
        ),
        "convert": typer.Option(
            "--convert",
            help="Convert 16 bits, colours for a grey model, CMYK, transparency and several frames.",
            rich_help_panel=IMAGES,
        ),
    },
]
