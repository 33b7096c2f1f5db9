"""Parquet files have the columns and the errors of JSON Lines files."""

import json

import pandas as pd
import pytest
from PIL import Image

from opsearch.data.files import load_file, load_jsonl
from opsearch.errors import DataError
from tests.support.messages import refuses

ROWS = [
    {"image": "a.png", "question": "what color?", "answer": "red", "id": "q1"},
    {"images": ["a.png", "sub/b.png"], "question": "which?", "answers": ["a", "b"], "id": "q2"},
]


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "sub").mkdir()
    Image.new("RGB", (3, 3), "red").save(tmp_path / "a.png")
    Image.new("RGB", (3, 3), "blue").save(tmp_path / "sub" / "b.png")
    return tmp_path


def write(folder, rows):
    path = folder / "items.parquet"
    pd.DataFrame(rows).to_parquet(path)
    return path


def test_rows_are_the_items_that_lines_are(folder):
    lines = folder / "items.jsonl"
    lines.write_text("\n".join(map(json.dumps, ROWS)))
    items = load_file(write(folder, ROWS))
    assert items == load_jsonl(lines) == load_file(lines)
    assert [item.digest() for item in items] == [item.digest() for item in load_jsonl(lines)]


@pytest.mark.parametrize(
    ("rows", "named"),
    [
        ([ROWS[0], ROWS[0]], ["row 2", '"q1"', "row 1"]),
        ([{**ROWS[0], "image": "../a.png"}], ["row 1", "'../a.png'", "folder"]),
        ([{**ROWS[0], "colour": "red"}], ["row 1", '"colour"', "answer, answers"]),
        ([{"image": "a.png", "answer": "red"}], ["row 1", '"question"', '{"image": ']),
        ([], ["item", "row"]),
    ],
    ids=["repeated", "outside", "unknown", "missing", "empty"],
)
def test_a_bad_row_is_named_with_the_next_step(folder, rows, named):
    with refuses(DataError, folder / "items.parquet", *named):
        load_file(write(folder, rows))


def test_a_file_that_is_no_parquet_is_named(tmp_path):
    path = tmp_path / "items.parquet"
    for make in (lambda: None, lambda: path.write_text("no")):
        make()
        with refuses(DataError, path, "Parquet"):
            load_file(path)
