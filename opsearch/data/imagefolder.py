"""Items from a folder of images with metadata, the imagefolder of Hugging Face's datasets.

    pets/metadata.jsonl     {"file_name": "1.jpg", "question": "...", "answer": "..."}
    pets/1.jpg

The metadata are metadata.jsonl, metadata.csv or metadata.parquet. `file_name` names one image,
`file_names` a list; all other columns are those of a Parquet file.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from opsearch.data.item import Item
from opsearch.data.jsonl import no_objects, objects
from opsearch.data.parquet import rows, table_columns
from opsearch.data.records import KEYS, Record, make_items
from opsearch.data.tables import note_ignored
from opsearch.errors import DataError

METADATA = ("metadata.jsonl", "metadata.csv", "metadata.parquet")
# As datasets rename them.
_RENAMED = {
    "file_name": "image",
    "image_file_name": "image",
    "file_names": "images",
    "image_file_names": "images",
    "images_file_names": "images",
}


def metadata_of(folder: Path) -> Path | None:
    """Return the metadata file of a folder, None if it has none.

    Raises:
        DataError: It has several.
    """
    found = [folder / name for name in METADATA if (folder / name).exists()]
    if len(found) > 1:
        names = " and ".join(path.name for path in found)
        raise DataError(f"{folder} holds {names}; keep one of them")
    return found[0] if found else None


def load_imagefolder(path: Path) -> list[Item]:
    """Return the items of a metadata file, without opening the images.

    Raises:
        DataError: The file, a line or a row is not valid; the message names it and the remedy.
    """
    unit = "row" if path.suffix == ".parquet" else "line"
    read = {".csv": _csv_lines, ".parquet": _parquet_rows}.get(path.suffix, objects)
    records = list(read(path))
    columns = tuple(dict.fromkeys(name for _, cells in records for name in cells))
    if not records:
        raise no_objects(path)
    if not {*_RENAMED, "image", "images"} & set(columns):
        raise DataError(
            f"{path} has no column file_name, but {', '.join(columns)}; name the image of each "
            f"{unit} in file_name, or several in file_names"
        )
    note_ignored(path, [name for name in columns if name not in _RENAMED])
    prefix = path.parent.resolve().name
    found = (Record(path, number, cells, unit, columns, prefix=prefix) for number, cells in records)
    return make_items(replace(record, cells=_renamed(record)) for record in found)


def _renamed(record: Record) -> dict[str, Any]:
    """Return the cells whose columns are keys, named as keys."""
    cells: dict[str, Any] = {}
    for name, value in record.cells.items():
        key = _RENAMED.get(name, name)
        if key not in KEYS:
            continue
        if cells.get(key) is not None and value is not None:
            raise record.error(f'"{name}" and another column both name the "{key}"; write one')
        cells[key] = cells.get(key) if value is None else value
    return cells


def _parquet_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    return rows(path, table_columns(path))


def _csv_lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the rows of a CSV file with their line numbers; blank cells are None."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, strict=True)
            names = list(reader.fieldnames or ())
            if twice := sorted({name for name in names if names.count(name) > 1}):
                raise DataError(f"{path}: two columns are named {twice[0]}; rename one")
            for cells in reader:
                if None in cells:  # where DictReader puts what is beyond the header
                    raise DataError(
                        f"{path}, line {reader.line_num}: more cells than the {len(names)} columns "
                        'of the header; put a text with commas between quotes, "a, b"'
                    )
                yield reader.line_num, {name: cells[name] or None for name in names}
    except csv.Error as error:
        raise DataError(
            f"{path} is not valid CSV ({error}); save it as CSV with a header and commas"
        ) from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text ({error}); save it as UTF-8") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}); check the path") from error
