"""Preparation of a user's images for a model, and the rule that splits them. No numpy here."""

import operator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

from famecli.errors import ArgumentError

if TYPE_CHECKING:
    from PIL.Image import Image

Crop = Literal["center", "none"]
# PIXELS: by a hash of the pixels, so that new files move no old ones. TENTH: by position, in older runs.
SplitRule = Literal["pixels", "tenth"]
PIXELS: SplitRule = "pixels"
TENTH: SplitRule = "tenth"
LARGEST_RESIZE = 4096


@dataclass(frozen=True)
class Preparation:
    """Preparation of a user's images.

    Args:
        resize: Side of the square images in pixels; None to keep the size of the files.
        crop: `center` to cut off what exceeds a square; `none` to keep the whole image, stretched without
            `pad`; None for `center`, or for `none` where images are padded.
        pad: Whether the whole image keeps its aspect and gets black borders.
        convert: Whether lossy conversions are allowed: 16 bits to 8, colours to greys for a grey model, CMYK
            to RGB, transparency to white, several frames to the first, bytes to the nearest level.
        rule: Rule that makes the splits that no folder or array names.

    Raises:
        ArgumentError: The values do not go together.
    """

    resize: int | None = None
    crop: Crop | None = None
    pad: bool = False
    convert: bool = False
    rule: SplitRule = PIXELS

    def __post_init__(self) -> None:
        for name in ("pad", "convert"):
            if (value := getattr(self, name)) not in (False, True):
                raise ArgumentError(f"`{name}={value}` is neither True nor False")
            # Truth values and integers of numpy cannot be written as JSON.
            object.__setattr__(self, name, bool(value))
        if self.crop not in (None, *get_args(Crop)):
            raise ArgumentError(f"`crop={self.crop}` is none of {', '.join(get_args(Crop))}")
        if self.resize is None and (self.crop is not None or self.pad):
            name = "crop" if self.crop is not None else "pad"
            raise ArgumentError(f"`{name}` is for resized images", "for example `resize=32`")
        if self.resize is not None:
            whole = hasattr(self.resize, "__index__") and not isinstance(self.resize, bool)
            side = operator.index(self.resize) if whole else 0
            if not 1 <= side <= LARGEST_RESIZE:
                raise ArgumentError(f"`resize={self.resize}` is not a side from 1 to {LARGEST_RESIZE} pixels")
            object.__setattr__(self, "resize", side)
        if self.pad and self.crop == "center":
            raise ArgumentError(
                "`pad` keeps the whole image, `crop=center` does not", "leave one of them out"
            )

    def __str__(self) -> str:
        """Return the preparation in words; empty if the images stay as they are."""
        words = ["converted where needed"] if self.convert else []
        if self.resize is not None:
            how = "padded" if self.pad else "stretched" if self.crop == "none" else "cropped"
            words.append(f"{how} and resized to {self.resize}x{self.resize}")
        return ", ".join(words)

    def following(self, recorded: "Preparation") -> "Preparation":
        """Return this preparation, completed by the one `recorded` for a model's training images.

        Images are converted if either says so, and split by the recorded rule.
        """
        size = recorded if self.resize is None else self
        convert = self.convert or recorded.convert
        return Preparation(size.resize, size.crop, size.pad, convert, recorded.rule)

    def resized(self, image: "Image") -> "Image":
        """Return an image of 8 bits at the size of the preparation, by the Lanczos filter of Pillow."""
        from PIL import Image

        if self.resize is None:
            return image
        (width, height), side = image.size, self.resize
        if self.pad:
            scale = side / max(width, height)
            size = max(1, round(width * scale)), max(1, round(height * scale))
            canvas = Image.new(image.mode, (side, side))
            canvas.paste(
                image.resize(size, Image.Resampling.LANCZOS), ((side - size[0]) // 2, (side - size[1]) // 2)
            )
            return canvas
        if self.crop != "none":
            least = min(width, height)
            left, top = (width - least) // 2, (height - least) // 2
            image = image.crop((left, top, left + least, top + least))
        return image.resize((side, side), Image.Resampling.LANCZOS)


AS_THEY_ARE = Preparation()
