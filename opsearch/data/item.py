"""Item of a task: images, a question about them, and the accepted answers."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

from opsearch.errors import DataError

if TYPE_CHECKING:
    from PIL import Image

Metric = Literal["match", "vqa", "anls", "relaxed"]
METRICS: tuple[str, ...] = get_args(Metric)
SAMPLES = 64  # items of a search, unless it is given another number


@dataclass(frozen=True)
class Item:
    """Images and a question with its answers.

    Attributes:
        id: Identifier, unique within its data set, e.g. "embedded/calibration/0/17".
        question: Text of the question.
        answers: Accepted answers; empty if unknown.
        images: Image files, or images in memory.
        family: Kind of question, by which results are reported.
        group: Items of one group are never split between calibration and held-out samples, as are
            items with a picture in common; None: no group.
        metric: How an answer is scored, one of METRICS.
    """

    id: str
    question: str
    answers: tuple[str, ...]
    images: tuple[Path | Image.Image, ...]
    family: str = "all"
    group: str | None = None
    metric: Metric = "match"

    def load_images(self) -> list[Image.Image]:
        """Return the images in RGB, rotated according to their EXIF orientation.

        Raises:
            DataError: A file is missing or cannot be decoded.
        """
        return [self._load(image) for image in self.images]

    def digest(self) -> str:
        """Return a SHA-256 (hex) of the question and the pictures.

        It does not depend on the answers, on the id, or on the paths of the files.
        """
        content = [self.question, *self.picture_digests()]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()

    def picture_digests(self) -> tuple[str, ...]:
        """Return a SHA-256 (hex) of size and pixels of each image; not of the bytes of its file."""
        return tuple(
            hashlib.sha256(f"{image.size}".encode() + image.tobytes()).hexdigest()
            for image in self.load_images()
        )

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
                "correct the path or put the file there"
            ) from None
        # Pillow also raises SyntaxError and ValueError for some broken files.
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise DataError(
                f"item {self.id}: the image {source} cannot be read ({error}); "
                "replace the file or leave the item out"
            ) from error


def all_answered(items: Sequence[Item]) -> bool:
    """Return whether there are items and each of them has an answer."""
    return bool(items) and all(item.answers for item in items)


def _rgb(image: Image.Image) -> Image.Image:
    from PIL import ImageOps

    upright = ImageOps.exif_transpose(image)
    if "transparency" in upright.info:  # Pillow warns if such palettes are converted directly
        upright = upright.convert("RGBA")
    return upright.convert("RGB")
