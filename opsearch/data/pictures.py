"""Pictures: opening in the file's own mode, RGB as processors make it, and content digests."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from opsearch.errors import DataError

if TYPE_CHECKING:
    from PIL import Image

    Source: TypeAlias = "Path | EncodedImage | Image.Image"

URL = re.compile(r"(?i)[a-z][a-z0-9+.-]+:/|data:")
NUMERIC = ("I", "F", "I;16", "I;16L", "I;16B", "I;16N")  # modes with more than 8 bits
_ONE_PICTURE = ("MPO", "PSD")  # formats whose first frame is the whole picture


@dataclass(frozen=True)
class EncodedImage:
    """An image file in memory, e.g. of a Parquet file; decoded when it is used.

    Attributes:
        data: Content of the image file.
        name: Name for messages.
    """

    data: bytes = field(repr=False)
    name: str

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True, eq=False)
class Picture:
    """An opened picture.

    Attributes:
        image: The decoded image, upright, in the mode of its file.
        name: Its file, or its number in its item, for messages.
        more_frames: It is the first of several frames or pages.
    """

    image: Image.Image
    name: str
    more_frames: bool = False

    def rgb(self) -> Image.Image:
        """Return the image in RGB, transparent pixels on white, as processors convert it.

        Raises:
            DataError: Pillow cannot convert it.
        """
        try:
            return _on_white(self.image).convert("RGB")
        except (ValueError, TypeError) as error:
            raise DataError(
                f"the image {self.name} of mode {self.image.mode} cannot be converted to RGB "
                f"({error}); save it in RGB"
            ) from error

    def digest(self) -> str:
        """Return a SHA-256 (hex) of size and pixels, equal for all formats of the same picture.

        The pixels are those that processors see. Where these lose the content, they are the
        file's: numbers of more than 8 bits, or ink and alpha that become one color.
        """
        kind, pixels = self._content()
        return hashlib.sha256(f"{self.image.size}{kind}".encode() + pixels).hexdigest()

    def _content(self) -> tuple[str, bytes]:
        import numpy as np

        if self.image.mode in NUMERIC:
            values = np.asarray(self.image).astype("<f8")
            if not ((values >= 0) & (values <= 255) & (values == np.floor(values))).all():
                return " numbers", values.tobytes()
        rgb = self.rgb()
        if is_transparent(self.image) and has_one_color(rgb):
            rgba = np.array(self.image.convert("RGBA"))
            rgba[rgba[..., 3] == 0] = 0  # the color of an invisible pixel is no content
            if (rgba != rgba[0, 0]).any():
                return " RGBA", rgba.tobytes()
        return "", rgb.tobytes()


def _on_white(image: Image.Image) -> Image.Image:
    from PIL import Image

    if image.mode == "La":  # premultiplied; Pillow has no conversion to RGB
        image = image.convert("LA")
    if not is_transparent(image):
        return image
    image = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)


def is_transparent(image: Image.Image) -> bool:
    """Return whether processors put the image on a ground: it has alpha, or a clear color."""
    return "A" in image.getbands() or image.info.get("transparency") is not None


def has_one_color(image: Image.Image) -> bool:
    """Return whether all pixels are equal."""
    extrema = image.getextrema()
    bands = extrema if isinstance(extrema[0], tuple) else (extrema,)
    return all(low == high for low, high in bands)


def open_picture(source: Source, item: str, number: int) -> Picture:
    """Decode a picture and turn it upright.

    Args:
        source: Image file, encoded image, or image in memory.
        item: Identifier of its item, for errors.
        number: Its number in the item, from 1.

    Raises:
        DataError: It is missing or cannot be decoded.
    """
    from PIL import Image

    in_memory = isinstance(source, Image.Image)
    if not isinstance(source, Path | EncodedImage | Image.Image):
        raise DataError(
            f"item {item}: image no. {number} is of type {type(source).__name__}; give a path or a "
            "PIL image, as PIL.Image.fromarray makes it of an array"
        )
    name = f"no. {number} of item {item}" if in_memory else str(source)
    try:
        if isinstance(source, Image.Image):
            return _opened(source, name)
        file = BytesIO(source.data) if isinstance(source, EncodedImage) else source
        with Image.open(file) as image:
            return _opened(image, name)
    except FileNotFoundError:
        if URL.match(name):
            raise DataError(f"item {item}: {url_refusal(name)}") from None
        raise DataError(
            f"item {item}: the image {name} does not exist; correct the path or put the file there"
        ) from None
    except Exception as error:  # Pillow's decoders raise any exception for a broken file
        raise DataError(
            f"item {item}: the image {name} cannot be read ({_reason(error)}); "
            "replace the file or leave the item out"
        ) from error


def _reason(error: Exception) -> str:
    """Return why a picture cannot be read, without its name, which the message has already."""
    from PIL import UnidentifiedImageError

    if isinstance(error, UnidentifiedImageError):  # its text has an address for bytes in memory
        return "it has no image format that Pillow knows"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return " ".join(str(error).split()) or type(error).__name__


def url_refusal(name: str) -> str:
    """Return why a URL is no image of an item, and the next step."""
    shown = name if len(name) <= 80 else f"{name[:77]}..."
    verb = "decode" if name.startswith("data:") else "download"
    return (
        f"the image {shown} is a URL, but opsearch reads local files only, so that a result can be "
        f"repeated; {verb} it and give the path of the file"
    )


def _opened(image: Image.Image, name: str) -> Picture:
    if 0 in image.size:
        raise ValueError("it has no pixels")
    image.load()
    upright = _upright(image)
    return Picture(upright, name, _has_more_frames(image))


def _upright(image: Image.Image) -> Image.Image:
    """Return a copy, rotated according to the EXIF orientation if that can be read."""
    from PIL import ImageOps

    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # broken EXIF data of a picture that can be decoded
        return image.copy()


def _has_more_frames(image: Image.Image) -> bool:
    if getattr(image, "format", None) in _ONE_PICTURE:
        return False
    try:
        return bool(getattr(image, "is_animated", False))
    except Exception:  # a broken second frame
        return True
