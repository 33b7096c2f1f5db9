"""Rows of a data set that are read one by one, and the samples that they make.

Data of questions with several annotators often have a row for each: rows with the same pictures and
the same question are one input of a model, hence one sample with the answers of all.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from opsearch.data.groups import item_links
from opsearch.data.item import Item
from opsearch.data.pictures import EncodedImage


@dataclass(frozen=True)
class Row:
    """What identifies a row.

    Attributes:
        digest: Digest of its input; rows of equal digests are one sample.
        links: Its links to other rows.
    """

    digest: str
    links: tuple[str, ...]


class Rows:
    """The rows of a data set in a given order; their pictures are read when they are needed.

    Args:
        source: For each row the items with its question and its image files, mostly one; none for a
            row to skip. It may load them when it is indexed.
    """

    def __init__(self, source: Sequence[Sequence[Item]]) -> None:
        self._source = source
        self._read: list[Row | None] = []
        self._positions: dict[str, list[int]] = {}
        self._pictures: dict[tuple[Path, ...], tuple[str, ...]] = {}
        self.count = 0
        """Number of items read so far."""

    def __iter__(self) -> Iterator[Row]:
        """Yield all rows from the first one on; those that were read before are not read again."""
        for position in range(len(self._source)):
            if position == len(self._read):
                self._read.append(self._identify(position))
            row = self._read[position]
            if row is not None:
                yield row

    @property
    def read(self) -> list[Row]:
        """The rows read so far."""
        return [row for row in self._read if row is not None]

    @property
    def digests(self) -> list[str]:
        """Digests of the samples in the rows read so far, in order of appearance."""
        return list(self._positions)

    def items(self, digest: str) -> list[Item]:
        """Return the items of a sample in the rows read so far."""
        return [item for position in self._positions[digest] for item in self._source[position]]

    def sample(self, digest: str) -> Item:
        """Return a sample with all its answers in the rows read so far."""
        return merged(self.items(digest))

    def _identify(self, position: int) -> Row | None:
        items = self._source[position]
        if not items:
            return None
        self.count += len(items)
        self._identify_pictures(items[0])
        digest = items[0].digest()
        self._positions.setdefault(digest, []).append(position)
        return Row(digest, item_links(*items))

    def _identify_pictures(self, item: Item) -> None:
        """Read the images of an item, unless they are files that another item has too."""
        files = tuple(image for image in item.images if isinstance(image, Path))
        if files and len(files) == len(item.images):
            known = self._pictures.get(files)
            if known is not None:
                vars(item)["picture_digests"] = known  # the cache of the property
            self._pictures[files] = item.picture_digests


def bundled(items: Sequence[Item], order: Sequence[Item] | None = None) -> list[list[Item]]:
    """Return together the items with the same question and the same image files.

    Args:
        items: The items.
        order: The same in another order, by which the result is ordered; None: as they are.
    """
    bundles: dict[tuple[object, ...], list[Item]] = {}
    for item in items:
        bundles.setdefault(_files(item), []).append(item)
    return [bundles[key] for key in dict.fromkeys(map(_files, items if order is None else order))]


def _files(item: Item) -> tuple[object, ...]:
    return item.question, *map(_file, item.images)


def _file(image: object) -> object:
    """Return what identifies an image without decoding it: its path or bytes, else the object."""
    if isinstance(image, EncodedImage):
        return image.data
    return image if isinstance(image, Path) else id(image)


def merged(items: Sequence[Item]) -> Item:
    """Return items of one input as one: the first, with the answers of all.

    The metric `vqa` counts how many annotators gave an answer, so that it keeps repeated ones; but
    a list of several answers that occurs again is a copy.
    """
    if len(items) == 1:
        return items[0]
    answers: list[str] = []
    lists: set[tuple[str, ...]] = set()
    for item in items:
        if len(item.answers) == 1 or item.answers not in lists:
            answers += item.answers
        lists.add(item.answers)
    kept = answers if items[0].metric == "vqa" else dict.fromkeys(answers)
    return replace(items[0], answers=tuple(kept))
