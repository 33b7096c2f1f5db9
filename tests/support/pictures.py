"""Pictures of every mode of Pillow, with random content, and the formats that can hold each."""

from io import BytesIO

import numpy as np
from PIL import Image

MODES = [
    *(
        "1",
        "L",
        "LA",
        "La",
        "P",
        "PA",
        "RGB",
        "RGBA",
        "RGBa",
        "RGBX",
        "CMYK",
        "YCbCr",
        "LAB",
        "HSV",
    ),
    *("I", "I;16", "I;16B", "F"),
]
CLEAR = {"P": [3, bytes(range(0, 160, 10))], "RGB": [(7, 7, 7)], "L": [7], "I;16": [7], "1": [1]}
FORMATS = [
    *("AVIF", "BMP", "DDS", "GIF", "ICNS", "ICO", "JPEG", "JPEG2000", "MPO", "PCX", "PNG"),
    *("PPM", "QOI", "SGI", "SPIDER", "TGA", "TIFF", "WEBP"),
]


def picture(mode, size, seed):
    """Return a picture of random pixels."""
    width, height = size
    rng = np.random.default_rng(seed)
    if mode in ("I", "I;16", "I;16B", "F"):
        values = rng.integers(0, rng.choice([2, 256, 65536]), (height, width))
        kind = {"I": "<i4", "I;16": "<u2", "I;16B": ">u2", "F": "<f4"}[mode]
        scale = rng.choice([1.0, 1 / 256]) if mode == "F" else 1
        return Image.frombytes(mode, size, (values * scale).astype(kind).tobytes())
    pixels = rng.choice([0, 7, 128, 255], (height, width, 4)).astype(np.uint8)
    rgba = Image.fromarray(pixels, "RGBA")
    if mode == "LAB":
        return Image.frombytes(mode, size, pixels[..., :3].tobytes())
    if mode in ("P", "PA"):
        return rgba.convert("RGB").quantize(16).convert(mode)
    if mode in ("La", "LA"):
        return rgba.convert("LA").convert(mode)
    return rgba.convert(mode) if mode in ("RGBA", "RGBa") else rgba.convert("RGB").convert(mode)


def encoded(image, form, clear=None):
    """Return an image file, None if the format cannot hold the mode or Pillow lacks it."""
    buffer = BytesIO()
    given = {} if clear is None else {"transparency": clear}
    try:
        image.save(buffer, form, **given)
        with Image.open(BytesIO(buffer.getvalue())) as opened:
            opened.load()
    except (OSError, KeyError, ValueError, TypeError, SystemError):
        return None
    return buffer.getvalue()
