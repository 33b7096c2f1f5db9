"""Item of a task: images, a question about them, and the accepted answers."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

from opsearch.data.pictures import EncodedImage, Picture, open_picture
from opsearch.errors import PATH, DataError, echo, shortened
from opsearch.formatting import screen_repr

if TYPE_CHECKING:
    from PIL import Image

Metric = Literal["match", "vqa", "anls", "relaxed"]
METRICS: tuple[Metric, ...] = get_args(Metric)
SAMPLES = 64  # items of a search, unless it is given another number


@dataclass(frozen=True)
class Item:
    """Images and a question with its answers.

    Attributes:
        id: Identifier, unique within its data set, e.g. "embedded/calibration/0/17".
        question: Text of the question.
        answers: Accepted answers; empty if unknown.
        images: Image files, encoded images of a Parquet file, or images in memory.
        family: Kind of question, by which results are reported.
        group: Items of one group are never split between calibration and held-out samples, as are
            items with a picture in common; None: no group.
        metric: How an answer is scored, one of METRICS.
    """

    id: str
    question: str
    answers: tuple[str, ...]
    images: tuple[Path | EncodedImage | Image.Image, ...]
    family: str = "all"
    group: str | None = None
    metric: Metric = "match"

    __repr__ = screen_repr

    def __post_init__(self) -> None:
        """Take lists for tuples, and texts for paths.

        Raises:
            DataError: A value has another type; a text would be taken for a list of letters.
        """
        if not isinstance(self.question, str):
            raise DataError(
                f"item {shortened(self.id, PATH)}: the question {echo(self.question)} is no text"
            )
        for name, example in (("answers", '("red",)'), ("images", '("a.jpg",)')):
            value = getattr(self, name)
            if not isinstance(value, tuple | list):
                raise DataError(
                    f"item {shortened(self.id, PATH)}: {name} is of type {type(value).__name__}, "
                    f"and no tuple; write e.g. {name}={example}"
                )
            vars(self)[name] = tuple(value)
        for answer in self.answers:
            if not isinstance(answer, str):
                raise DataError(
                    f"item {shortened(self.id, PATH)}: the answer {echo(answer)} is no text; write "
                    "it as one"
                )
        vars(self)["images"] = tuple(Path(i) if isinstance(i, str) else i for i in self.images)

    def pictures(self) -> list[Picture]:
        """Return the images as a processor is given them: upright, in the mode of their files.

        Raises:
            DataError: A file is missing or cannot be decoded.
        """
        return [open_picture(image, self.id, n) for n, image in enumerate(self.images, 1)]

    def load_images(self) -> list[Image.Image]:
        """Return the images in RGB as processors see them: upright, transparency on white.

        Raises:
            DataError: A file is missing or cannot be decoded.
        """
        return [picture.rgb() for picture in self.pictures()]

    def digest(self) -> str:
        """Return a SHA-256 (hex) of the question and the pictures.

        It does not depend on the answers, on the id, or on the paths of the files.
        """
        content = [self.question, *self.picture_digests]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()

    @cached_property
    def picture_digests(self) -> tuple[str, ...]:
        """SHA-256 (hex) of each image's size and pixels, whatever its file; read only once."""
        return tuple(picture.digest() for picture in self.pictures())


def all_answered(items: Sequence[Item]) -> bool:
    """Return whether there are items and each of them has an answer."""
    return bool(items) and all(item.answers for item in items)
