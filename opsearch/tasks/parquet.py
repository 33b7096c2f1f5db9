"""Items from a Parquet file with the columns of the JSON Lines form, image paths included."""

from __future__ import annotations

from pathlib import Path

from opsearch.errors import DataError
from opsearch.tasks.item import Item
from opsearch.tasks.jsonl import load_jsonl, make_items


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
            f"{path} cannot be read without pyarrow; pip install pyarrow, or write JSON Lines"
        ) from error
    try:
        rows = read_table(path).to_pylist()
    except (OSError, ArrowInvalid) as error:
        reason = " ".join(str(error).split())
        raise DataError(f"{path} cannot be read as Parquet ({reason}); check the file.") from error
    if not rows:
        raise DataError(f"{path} holds no rows; write one item a row.")
    records = ({name: cell for name, cell in row.items() if cell is not None} for row in rows)
    return make_items(enumerate(records, start=1), path, "row")
