"""Items from Parquet files, also as Hugging Face's datasets write them (needs pyarrow).

A file has one item per row with the keys of `opsearch.data.records` as columns. An image is a path,
or a struct {bytes, path}, whose bytes stay encoded until the picture is used. Other columns are
ignored with a note.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any

from opsearch.data.item import Item
from opsearch.data.records import KEYS, Record, make_items
from opsearch.data.tables import note_ignored
from opsearch.errors import DataError

_ROWS = 32  # read at a time
_SHARD = re.compile(r"(?P<split>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})")


def load_parquet(path: Path) -> list[Item]:
    """Return the items of a Parquet file, without decoding the images.

    Raises:
        DataError: The file or a row is not valid; the message names file, row (from 1) and remedy.
    """
    return load_shards([path])


def load_shards(paths: Sequence[Path]) -> list[Item]:
    """Return the items of the shards of one split.

    Raises:
        DataError: A file or a row is not valid, or a shard is missing.
    """
    files = [(path, table_columns(path)) for path in paths]
    note_ignored(paths[0], dict.fromkeys(chain(*(columns for _, columns in files))))
    return make_items(
        Record(path, number, cells, "row", tuple(columns))
        for path, columns in files
        for number, cells in rows(path, [name for name in columns if name in KEYS])
    )


def table_columns(path: Path) -> list[str]:
    """Return the names of the columns of a Parquet file with at least one row.

    Raises:
        DataError: The file cannot be read or has no rows.
    """
    with _reading(path) as file:
        names: list[str] = file.schema_arrow.names
        count = file.metadata.num_rows
    if not count:
        raise DataError(f"{path} holds no rows; write one item per row")
    return names


def rows(path: Path, columns: Sequence[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the rows of a Parquet file with their numbers, from 1, some at a time.

    Raises:
        DataError: The file cannot be read.
    """
    number = 0
    with _reading(path) as file:
        for batch in file.iter_batches(_ROWS, columns=list(columns)):
            for cells in batch.to_pylist() if columns else [{}] * batch.num_rows:
                number += 1
                yield number, cells


@contextmanager
def _reading(path: Path) -> Iterator[Any]:
    """Open a Parquet file; its errors within the block become errors for users."""
    try:
        from pyarrow import ArrowException
        from pyarrow.parquet import ParquetFile
    except ImportError as error:
        raise DataError(
            f"{path} cannot be read without pyarrow; pip install pyarrow, or use JSON Lines"
        ) from error
    try:
        with ParquetFile(path) as file:
            yield file
    except (OSError, ValueError, ArrowException) as error:
        reason = " ".join(str(error).split())
        raise DataError(f"{path} cannot be read as Parquet ({reason}); check the file") from error


def check_shards(paths: Sequence[Path]) -> None:
    """Raise DataError unless the files are all shards of one split.

    A shard is named SPLIT-00000-of-00002.parquet, a split of one file in any way.
    """
    shards = [_SHARD.fullmatch(path.stem) for path in paths]
    splits = {
        shard["split"] if shard else path.stem for shard, path in zip(shards, paths, strict=True)
    }
    folder = paths[0].parent
    if len(splits) > 1:
        raise DataError(
            f"{folder} holds the splits {', '.join(sorted(splits))}; give one of them as "
            f"'{folder / min(splits)}*.parquet', or its only file"
        )
    there = {int(shard["number"]) for shard in shards if shard}
    count = max((int(shard["count"]) for shard in shards if shard), default=0)
    missing = [str(number) for number in range(count) if number not in there]
    if missing:
        raise DataError(
            f"{folder} lacks the shards {', '.join(missing)} of {count} of {min(splits)}; "
            "put all of them there"
        )
