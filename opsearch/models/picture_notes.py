"""Notes on pictures of which the model's processor loses the content, without an error."""

from __future__ import annotations

from collections.abc import Iterable
from inspect import signature
from typing import TYPE_CHECKING, Any

import numpy as np
from transformers.image_transforms import convert_to_rgb

from opsearch.data.pictures import NUMERIC, Picture, has_one_color, is_transparent

if TYPE_CHECKING:
    from PIL import Image

_FRAMES = (
    "pictures with several frames or pages, of which the processor sees the first only",
    "save the frame that a question is about as a picture of its own",
)
_CLIPPED = (
    "pictures with values beyond 8 bits, which the processor cuts to whole numbers from 0 to 255",
    "scale them to 8 bits",
)
_ONE_COLOR = (
    "transparent pictures of which the processor makes one color",
    "put them on a ground of another color",
)
# Newer releases warn unless they are asked for an array; older ones always return an image.
_AS_ARRAY: dict[str, Any] = (
    {"return_numpy": True} if "return_numpy" in signature(convert_to_rgb).parameters else {}
)


class PictureNotes:
    """Collects the notes of a data set.

    Args:
        processor: The model's processor.
    """

    def __init__(self, processor: Any) -> None:
        self._converts = bool(getattr(processor.image_processor, "do_convert_rgb", False))
        self._names: dict[tuple[str, str], dict[str, str]] = {}

    def add(self, pictures: Iterable[Picture]) -> None:
        """Look at the pictures of one item."""
        for picture in pictures:
            if picture.more_frames:
                self._note(_FRAMES, picture)
            if self._converts:
                self._look(picture)

    def lines(self) -> list[str]:
        """Return one line for each kind of note, with the number of pictures and the first."""
        return [
            f"{what}: {len(names)}, first {name} ({detail}); {remedy}"
            for (what, remedy), names in self._names.items()
            for name, detail in [next(iter(names.items()))]
        ]

    def _look(self, picture: Picture) -> None:
        image = picture.image
        if image.mode in NUMERIC:
            low, high = _range(image)
            if low < 0 or high > 255 or (image.mode == "F" and low < high <= 1):
                self._note(_CLIPPED, picture, f"{low:g} to {high:g}", _only_color(image))
        elif _has_content(image) and (color := _only_color(image)):
            self._note(_ONE_COLOR, picture, color)

    def _note(self, kind: tuple[str, str], picture: Picture, *details: str) -> None:
        shown = ", ".join([picture.image.mode, *filter(None, details)])
        self._names.setdefault(kind, {}).setdefault(picture.name, shown)


def _has_content(image: Image.Image) -> bool:
    """Return whether an image has transparency and pixels that differ."""
    return is_transparent(image) and not has_one_color(image.convert("RGBA"))


def _range(image: Image.Image) -> tuple[float, float]:
    values = np.asarray(image).astype(float)
    values = values[~np.isnan(values)]
    return float(values.min(initial=np.inf)), float(values.max(initial=-np.inf))


def _only_color(image: Image.Image) -> str:
    """Return "all COLOR" if the processor makes one color of an image, else nothing."""
    pixels = np.asarray(convert_to_rgb(image, **_AS_ARRAY)).reshape(-1, 3)
    if (pixels != pixels[0]).any():
        return ""
    names = {(0, 0, 0): "black", (255, 255, 255): "white"}
    rgb = tuple(pixels[0].tolist())
    return f"all {names.get(rgb, rgb)} in the processor"
