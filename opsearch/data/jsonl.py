"""Items from JSON Lines files: one object per line, without unknown keys."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from opsearch.data.item import Item
from opsearch.data.records import EXAMPLE, Record, make_items
from opsearch.errors import DataError

_ON_ONE_LINE = f"write each item on one line: {EXAMPLE}"


def load_jsonl(path: str | Path) -> list[Item]:
    """Return the items of a JSON Lines file, without opening the images.

    Raises:
        DataError: The file or a line is not valid; the message names file, line and remedy.
    """
    path = Path(path)
    items = make_items(Record(path, number, cells) for number, cells in objects(path))
    if not items:
        raise no_objects(path)
    return items


def objects(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the objects of the non-blank lines with the numbers of these lines, from 1.

    Raises:
        DataError: The file cannot be read, or a line is no JSON object.
    """
    for number, line in _lines(path):
        try:
            content = json.loads(line.strip())
        except (ValueError, RecursionError) as error:
            raise DataError(
                f"{path}, line {number}: not valid JSON ({_reason(error)}); {_ON_ONE_LINE}"
            ) from error
        if not isinstance(content, dict):
            raise DataError(f"{path}, line {number}: not a JSON object; {_ON_ONE_LINE}")
        yield number, content


def _reason(error: Exception) -> str:
    """Return what is wrong with a line; the number of the line that `json` names is always 1."""
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg}, column {error.colno}"
    return str(error)


def no_objects(path: Path) -> DataError:
    """Return the error of a file without lines."""
    return DataError(f"{path} holds no samples; write one JSON object per line: {EXAMPLE}")


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    try:
        with path.open(encoding="utf-8-sig") as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    yield number, line
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text ({error}); save it as UTF-8") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}); check the path") from error
