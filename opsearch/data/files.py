"""Items from JSON Lines and Parquet files, with images in the folder of the file or below.

    {"image": "cat.jpg", "question": "what animal is this?", "answer": "cat"}
    {"images": ["a.png", "b.png"], "question": "which is older?", "answers": ["a", "first"],
     "id": "q7", "family": "compare"}      (on one line)

`answers` may be empty, because a search needs no answers, but an evaluation does. Blank answers are
ignored. A Parquet file has one item per row with the same keys as columns; null cells are missing
keys. Reading it needs pyarrow.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from opsearch.data.item import Item, Metric
from opsearch.errors import DataError

_EXAMPLE = '{"image": "a.jpg", "question": "...", "answer": "..."}'


class _Record(BaseModel):
    """Keys of one line; `image` and `answer` abbreviate lists of one element."""

    model_config = ConfigDict(extra="forbid", strict=True)

    question: str = Field(min_length=1)
    image: str | None = None
    images: list[str] | None = Field(None, min_length=1)
    answer: str | None = None
    answers: list[str] | None = None
    id: str | None = Field(None, min_length=1)
    family: str = Field("all", min_length=1)
    group: str | None = Field(None, min_length=1)
    metric: Metric = "match"


def load_jsonl(path: str | Path) -> list[Item]:
    """Return the items of a JSON Lines file, without opening the images.

    Raises:
        DataError: The file or a line is not valid; the message names file, line and remedy.
    """
    path = Path(path)
    items = make_items(((n, _parse(line, f"{path}, line {n}")) for n, line in _lines(path)), path)
    if not items:
        raise DataError(f"{path} holds no samples; write one JSON object per line: {_EXAMPLE}")
    return items


def make_items(records: Iterable[tuple[int, Any]], path: Path, unit: str = "line") -> list[Item]:
    """Return the items of a file.

    Args:
        records: Records with their numbers in the file.
        path: The file.
        unit: Name of what the numbers count, for errors.

    Raises:
        DataError: A record is not valid, or two items have the same id.
    """
    items: list[Item] = []
    number_of: dict[str, int] = {}
    for number, record in records:
        where = f"{path}, {unit} {number}"
        item = _item(_checked(record, where), path, number, where)
        if item.id in number_of:
            raise DataError(
                f'{where}: the id "{item.id}" is already used in {unit} {number_of[item.id]}; '
                "give every item a unique id, or none"
            )
        number_of[item.id] = number
        items.append(item)
    return items


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the non-blank lines with their numbers, starting at 1."""
    try:
        with path.open(encoding="utf-8-sig") as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    yield number, line
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text ({error}); save it as UTF-8") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}); check the path") from error


def _parse(line: str, where: str) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: not valid JSON ({error}); write {_EXAMPLE}") from error


def _checked(content: Any, where: str) -> _Record:
    if not isinstance(content, dict):
        raise DataError(f"{where}: not a JSON object; write {_EXAMPLE}")
    try:
        return _Record.model_validate(content)
    except ValidationError as error:
        raise DataError(f"{where}: {_first_error(error)}") from error


def _first_error(error: ValidationError) -> str:
    """Return the first validation error and its remedy."""
    first = error.errors()[0]
    key = str(first["loc"][0])
    if first["type"] == "missing":
        return f'the key "{key}" is missing; write {_EXAMPLE}'
    if first["type"] == "extra_forbidden":
        known = ", ".join(_Record.model_fields)
        return f'the key "{key}" is unknown; leave it out or use one of {known}'
    return f'"{key}" is wrong ({first["msg"]}); write {_EXAMPLE}'


def _item(record: _Record, path: Path, number: int, where: str) -> Item:
    names = _one_of(record, "image", "images", where)
    answers = _one_of(record, "answer", "answers", where)
    return Item(
        id=record.id or f"{path.stem}/{number}",
        question=record.question,
        answers=tuple(answer for answer in answers if answer.strip()),
        images=tuple(_inside(path.parent, name, where) for name in names),
        family=record.family,
        group=record.group,
        metric=record.metric,
    )


def _one_of(record: _Record, single: str, several: str, where: str) -> list[str]:
    """Return the value of the key that is given, as a list; raise DataError unless one is."""
    one: str | None = getattr(record, single)
    many: list[str] | None = getattr(record, several)
    if (one is None) == (many is None):
        given = "neither" if one is None else "both"
        hint = ' ("answers": [] when unknown)' if single == "answer" else ""
        raise DataError(
            f'{where}: {given} of "{single}" and "{several}" given; write exactly one{hint}'
        )
    return [one] if one is not None else list(many or ())


def _inside(folder: Path, name: str, where: str) -> Path:
    """Resolve the path of an image; raise DataError if it is outside of the folder."""
    try:
        resolved = (folder / name).resolve()
    except (OSError, ValueError, RuntimeError) as error:  # a null byte, a loop of symbolic links
        raise DataError(f"{where}: {name!r} is not a path ({error}); correct it") from error
    if not resolved.is_relative_to(folder.resolve()):
        raise DataError(
            f"{where}: the image {name!r} lies outside of the folder of the data file; "
            "move it there and give its path relative to that folder"
        )
    return resolved


def load_file(path: Path) -> list[Item]:
    """Return the items of a .parquet file, or of a JSON Lines file with any other suffix."""
    return load_parquet(path) if path.suffix == ".parquet" else load_jsonl(path)


def load_parquet(path: Path) -> list[Item]:
    """Return the items of a Parquet file; null cells are missing keys.

    Raises:
        DataError: The file or a row is not valid; the message names file, row (from 1) and remedy.
    """
    try:
        from pyarrow import ArrowInvalid
        from pyarrow.parquet import read_table
    except ImportError as error:
        raise DataError(
            f"{path} cannot be read without pyarrow; pip install pyarrow, or use JSON Lines"
        ) from error
    try:
        rows = read_table(path).to_pylist()
    except (OSError, ArrowInvalid) as error:
        reason = " ".join(str(error).split())
        raise DataError(f"{path} cannot be read as Parquet ({reason}); check the file") from error
    if not rows:
        raise DataError(f"{path} holds no rows; write one item per row")
    records = ({name: cell for name, cell in row.items() if cell is not None} for row in rows)
    return make_items(enumerate(records, start=1), path, "row")
