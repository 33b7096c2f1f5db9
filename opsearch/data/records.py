"""Items from records: one line or row of a data file, as a dict of its keys.

    {"image": "cat.jpg", "question": "what animal is this?", "answer": "cat"}
    {"images": ["a.png", "b.png"], "question": "which is older?", "answers": ["a", "first"],
     "id": "q7", "family": "compare", "group": "album 3", "metric": "vqa"}

A null is a missing key. Images are in the folder of the data file or below. docs/data.md describes
all keys and formats.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from opsearch.data.cells import images, text, texts
from opsearch.data.item import METRICS, Item, Metric
from opsearch.errors import DataError, shortened

EXAMPLE = '{"image": "a.jpg", "question": "...", "answer": "..."}'
KEYS = ("question", "image", "images", "answer", "answers", "id", "family", "group", "metric")


@dataclass(frozen=True)
class Record:
    """A line or row of a data file.

    Attributes:
        path: The file.
        number: Number of the line or row in the file, from 1.
        cells: Value of each key or column; None: none.
        unit: What `number` counts, for errors.
        columns: Names of all columns of a table, for errors; empty if there are none.
        prefix: Start of the default id; None: the name of the file.
    """

    path: Path
    number: int
    cells: Mapping[str, Any]
    unit: str = "line"
    columns: tuple[str, ...] = ()
    prefix: str | None = None

    @property
    def where(self) -> str:
        """File and number, for errors."""
        return f"{self.path}, {self.unit} {self.number}"

    def error(self, reason: str) -> DataError:
        """Return an error that names file and number, and the columns that there are."""
        columns = f" (the columns are {', '.join(self.columns)})" if self.columns else ""
        return DataError(f"{self.where}: {reason}{columns}")


def make_items(records: Iterable[Record]) -> list[Item]:
    """Return the items of the records.

    Raises:
        DataError: A record is not valid, or two items have the same id.
    """
    items: list[Item] = []
    first: dict[str, Record] = {}
    for record in records:
        item = _item(record)
        if item.id in first:
            used = first[item.id]
            place = f"{used.unit} {used.number}" if used.path == record.path else used.where
            raise DataError(
                f'{record.where}: the id "{shortened(item.id)}" is already used in {place}; '
                "give every item a unique id, or none"
            )
        first[item.id] = record
        items.append(item)
    return items


def _item(record: Record) -> Item:
    for key in record.cells:
        if key not in KEYS:
            raise record.error(
                f'the key "{key}" is unknown; leave it out or use one of {", ".join(KEYS)}'
            )
    question = _word(record, "question")
    if question is None:
        raise record.error(f'the key "question" is missing; write {EXAMPLE}')
    pictures, answers = _one_of(record, "image"), _one_of(record, "answer")
    if pictures is None:
        raise record.error(f'"image" is null; write {EXAMPLE}')
    prefix = record.path.stem if record.prefix is None else record.prefix
    return Item(
        id=_word(record, "id") or f"{prefix}/{record.number}",
        question=question,
        answers=_answers(record, *answers) if answers else (),
        images=_images(record, *pictures),
        family=_word(record, "family") or "all",
        group=_word(record, "group"),
        metric=_metric(record),
    )


def _one_of(record: Record, key: str) -> tuple[str, Any] | None:
    """Return the key and value of `image` or `images`, or of `answer` or `answers`.

    None if the only one there is null.
    """
    given = [name for name in (key, f"{key}s") if name in record.cells]
    filled = [name for name in given if record.cells[name] is not None]
    if len(filled) > 1 or not given:
        hint = ' ("answers": [] when unknown)' if key == "answer" else ""
        raise record.error(
            f'{"both" if filled else "neither"} of "{key}" and "{key}s" given; '
            f"write exactly one{hint}"
        )
    return (filled[0], record.cells[filled[0]]) if filled else None


def _word(record: Record, key: str) -> str | None:
    """Return a text or number as text; None if it is missing."""
    if (value := record.cells.get(key)) is None:
        return None
    try:
        word = text(value)
    except ValueError as error:
        raise record.error(f'"{key}" is wrong ({error}); write {EXAMPLE}') from None
    if not word.strip():
        raise record.error(
            f'"{key}" is wrong (it needs at least 1 character that is no space); write {EXAMPLE}'
        )
    return word


def _metric(record: Record) -> Metric:
    word = _word(record, "metric") or "match"
    for metric in METRICS:
        if word == metric:
            return metric
    raise record.error(f'"metric" is "{word}"; use one of {", ".join(METRICS)}')


def _answers(record: Record, key: str, value: Any) -> tuple[str, ...]:
    try:
        return tuple(answer for answer in texts(value) if answer.strip())
    except ValueError as error:
        raise record.error(
            f'"{key}" is wrong ({error}); write a text, a number, or a list of these, '
            f"as in {EXAMPLE}"
        ) from None


def _images(record: Record, key: str, value: Any) -> tuple[Any, ...]:
    try:
        found = images(value, record.path.parent, record.where)
    except ValueError as error:
        raise record.error(f'"{key}" is wrong ({error}); write {EXAMPLE}') from None
    if not found:
        raise record.error(f'"{key}" is wrong (it needs at least 1 image); write {EXAMPLE}')
    return found
