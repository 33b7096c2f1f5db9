"""One sample of a task: pictures, a question about them, and the answers that count as right."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from opsearch.errors import DataError

if TYPE_CHECKING:  # what only times models must do without it
    from PIL import Image


@dataclass(frozen=True)
class Item:
    """One sample of a task.

    id: unique within its data set, e.g. "embedded/calibration/0/17".
    answers: any of them is right; empty when unknown.
    images: files, or pictures in memory.
    family: the kind of question, to report results by.
    """

    id: str
    question: str
    answers: tuple[str, ...]
    images: tuple[Path | Image.Image, ...]
    family: str = "all"

    def load_images(self) -> list[Image.Image]:
        """Return the pictures as RGB images, turned upright as their EXIF data asks.

        Raises DataError when a file is missing or is no complete picture.
        """
        return [self._load(image) for image in self.images]

    def digest(self) -> str:
        """Return a SHA-256 (hex) of question, answers, and size and pixels of the pictures.

        Items of equal content have equal digests, whatever their id and wherever their files lie.
        """
        images = self.load_images()
        head = [self.question, list(self.answers), [image.size for image in images]]
        digest = hashlib.sha256(json.dumps(head).encode())
        for image in images:
            digest.update(image.tobytes())
        return digest.hexdigest()

    def _load(self, source: Path | Image.Image) -> Image.Image:
        from PIL import Image

        if isinstance(source, Image.Image):
            return _rgb(source)
        try:
            with Image.open(source) as image:
                return _rgb(image)
        except FileNotFoundError:
            raise DataError(
                f"item {self.id}: the image {source} does not exist; "
                "correct the path or put the file there."
            ) from None
        # Pillow raises SyntaxError and ValueError, too, for some kinds of broken file.
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise DataError(
                f"item {self.id}: the image {source} cannot be read ({error}); "
                "replace the file or leave the item out."
            ) from error


def all_answered(items: Sequence[Item]) -> bool:
    """Whether there are items, and each has an answer to score with."""
    return bool(items) and all(item.answers for item in items)


def _rgb(image: Image.Image) -> Image.Image:
    from PIL import ImageOps

    upright = ImageOps.exif_transpose(image)
    if "transparency" in upright.info:  # straight to RGB, Pillow would warn about such palettes
        upright = upright.convert("RGBA")
    return upright.convert("RGB")
