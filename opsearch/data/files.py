"""Items from data files and folders, by their format.

items.jsonl                 JSON Lines
items.parquet               Parquet; 'data/train-*.parquet': the shards of one split
FOLDER                      with metadata: an imagefolder; with Parquet files: their rows
FOLDER/metadata.csv         the same imagefolder
"""

from __future__ import annotations

from pathlib import Path

from opsearch.data.imagefolder import METADATA, load_imagefolder, metadata_of
from opsearch.data.item import Item
from opsearch.data.jsonl import load_jsonl
from opsearch.data.parquet import check_shards, load_parquet, load_shards
from opsearch.errors import DataError


def load_file(path: Path) -> list[Item]:
    """Return the items of a file or a folder; a file of an unknown suffix is JSON Lines.

    Raises:
        DataError: It is not valid; the message names the file, the line or row, and the remedy.
    """
    if path.is_dir():
        return _load_folder(path)
    if "*" in path.name and not path.exists():
        return _load_shards(path)
    if path.name in METADATA:
        return load_imagefolder(path)
    if path.suffix == ".csv":
        raise DataError(
            f"{path} is a CSV file; name it metadata.csv, with the columns file_name, question and "
            "answer, in the folder of its images"
        )
    return load_parquet(path) if path.suffix == ".parquet" else load_jsonl(path)


def _load_folder(folder: Path) -> list[Item]:
    """Return the items of a folder, or of its only subfolder with data."""
    try:
        metadata = metadata_of(folder)
        if metadata is not None:
            return load_imagefolder(metadata)
        if shards := sorted(folder.glob("*.parquet")):
            check_shards(shards)
            return load_shards(shards)
        inner = [each for each in sorted(folder.iterdir()) if each.is_dir() and _holds_data(each)]
    except OSError as error:
        raise DataError(f"{folder} cannot be read ({error.strerror}); check the path") from error
    if len(inner) > 1:
        raise DataError(
            f"{folder} holds the splits {', '.join(each.name for each in inner)}; give the folder "
            f"of one of them, e.g. {inner[0]}"
        )
    if inner:
        return _load_folder(inner[0])
    raise DataError(
        f"{folder} holds neither metadata nor Parquet files; write the questions into "
        f'{folder / METADATA[0]}, e.g. {{"file_name": "a.jpg", "question": "...", "answer": "..."}}'
    )


def _holds_data(folder: Path) -> bool:
    named = ("*.parquet", *METADATA)
    return folder.name[0] != "." and any(any(folder.rglob(name)) for name in named)


def _load_shards(pattern: Path) -> list[Item]:
    """Return the items of the Parquet files that a pattern like data/train-*.parquet names."""
    found = sorted(pattern.parent.glob(pattern.name))
    if not found or any(path.suffix != ".parquet" for path in found):
        raise DataError(
            f"{pattern} names {'a file that is not Parquet' if found else 'no file'}; "
            "only the shards of a Parquet data set are given by a pattern"
        )
    check_shards(found)
    return load_shards(found)
