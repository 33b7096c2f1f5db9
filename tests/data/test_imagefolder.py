"""Folders of images with metadata, as Hugging Face's datasets read them."""

import json
import re

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from opsearch.data.files import load_file
from opsearch.errors import DataError
from tests.support.messages import naming, refuses

ROWS = [
    {"file_name": "1.png", "question": "what color?", "answer": "red"},
    {"file_name": "more/2.png", "question": "what, if any?", "answer": "blue"},
]


@pytest.fixture
def folder(tmp_path):
    draw(tmp_path / "pets")
    return tmp_path / "pets"


def draw(folder):
    (folder / "more").mkdir(parents=True)
    Image.new("RGB", (3, 3), "red").save(folder / "1.png")
    Image.new("RGB", (3, 3), "blue").save(folder / "more" / "2.png")


def write(folder, kind, rows=ROWS):
    path = folder / f"metadata.{kind}"
    if kind == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif kind == "jsonl":
        path.write_text("\n".join(map(json.dumps, rows)))
    else:
        lines = [",".join(rows[0])]
        lines += [",".join(f'"{cell}"' for cell in row.values()) for row in rows]
        path.write_text("\n".join(lines))
    return path


def facts(items):
    return [
        (item.question, item.answers, [image.getpixel((0, 0)) for image in item.load_images()])
        for item in items
    ]


EXPECTED = [
    ("what color?", ("red",), [(255, 0, 0)]),
    ("what, if any?", ("blue",), [(0, 0, 255)]),
]


@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet"])
def test_a_folder_and_its_metadata_are_the_same_items(folder, kind):
    path = write(folder, kind)
    items = load_file(folder)
    assert facts(items) == facts(load_file(path)) == EXPECTED
    assert [item.id.partition("/")[0] for item in items] == ["pets", "pets"]


@pytest.mark.parametrize("name", ["file_names", "image_file_names", "images_file_names"])
def test_several_images(folder, name):
    row = {name: ["more/2.png", "1.png"], "question": "?", "answer": "x"}
    for kind in ("jsonl", "parquet"):
        path = write(folder, kind, [row])
        (item,) = load_file(folder)
        assert facts([item])[0][2] == [(0, 0, 255), (255, 0, 0)]
        path.unlink()


@pytest.mark.parametrize("name", ["image_file_name", "image"])
def test_one_image_under_its_other_names(folder, name):
    write(folder, "jsonl", [{name: "1.png", "question": "?", "answer": 3}])
    assert facts(load_file(folder)) == [("?", ("3",), [(255, 0, 0)])]


def test_cells_of_a_csv_file_are_text(folder):
    (folder / "metadata.csv").write_text(
        "file_name,question,answer,group,left_file_name\n"
        '1.png,"two\nlines",3.0,,x.png\n\n1.png,?,,NA,x.png\n'
    )
    first, second = load_file(folder)
    assert (first.question, first.answers, first.group) == ("two\nlines", ("3.0",), None)
    assert (second.answers, second.group) == ((), "NA")


def test_other_columns_are_ignored_and_named(folder, caplog):
    path = write(folder, "jsonl", [{**row, "breed": "manx", "left_file_name": ""} for row in ROWS])
    assert facts(load_file(folder)) == EXPECTED
    (message,) = caplog.messages
    assert re.search(naming(path, "breed, left_file_name"), message)


def test_the_only_split_is_taken_and_several_are_named(tmp_path):
    draw(tmp_path / "train")
    write(tmp_path / "train", "jsonl")
    (tmp_path / "empty").mkdir()
    assert facts(load_file(tmp_path)) == EXPECTED
    draw(tmp_path / "test")
    write(tmp_path / "test", "csv")
    with refuses(DataError, tmp_path, "test, train", tmp_path / "test"):
        load_file(tmp_path)
    assert facts(load_file(tmp_path / "test")) == EXPECTED


def test_a_folder_without_metadata_is_named_with_an_example(folder):
    with refuses(DataError, folder, "metadata.jsonl", '"file_name"', '"question"', '"answer"'):
        load_file(folder)


def test_two_metadata_files_are_named(folder):
    write(folder, "jsonl")
    write(folder, "csv")
    with refuses(DataError, folder, "metadata.jsonl", "metadata.csv"):
        load_file(folder)


@pytest.mark.parametrize(
    ("rows", "named"),
    [
        ([{"question": "?", "answer": "a"}], ["file_name", "question, answer"]),
        ([{"file_name": "1.png", "answer": "a"}], ["line 1", '"question"', "file_name, answer"]),
        ([{**ROWS[0], "answer": True}], ["line 1", '"answer"', "true"]),
        ([ROWS[0], {**ROWS[0], "file_name": "../1.png"}], ["line 2", "../1.png"]),
        ([{**ROWS[0], "file_name": "https://x.org/1.png"}], ["line 1", "https://x.org/1.png"]),
        ([{**ROWS[0], "image": "1.png"}], ["line 1", '"image"']),
        ([{**ROWS[0], "file_names": ["1.png"]}], ["line 1", '"image"', '"images"']),
        ([], ["metadata.jsonl"]),
        ([3], ["line 1", "JSON"]),
    ],
)
def test_bad_metadata_are_named(folder, rows, named):
    path = write(folder, "jsonl", rows)
    with refuses(DataError, path, *named):
        load_file(folder)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("file_name,question,answer\n1.png,?,a,b\n", ["line 2", 3, "quotes"]),
        ("file_name,question,question\n1.png,?,a\n", ["question"]),
        ('file_name,question,answer\n1.png,"?,a\n', ["CSV"]),
        ("file_name,question,answer\n1.png\n", ["line 2", '"question"']),
        ("", ["metadata.csv"]),
        ("file_name,question,answer\n", ["metadata.csv"]),
        ("file_name,question,answer\n\xff", ["UTF-8"]),
    ],
)
def test_bad_csv_is_named(folder, text, named):
    path = folder / "metadata.csv"
    path.write_bytes(text.encode("latin-1"))
    with refuses(DataError, path, *named):
        load_file(folder)


def test_another_csv_file_is_told_its_name(folder):
    path = folder / "questions.csv"
    path.write_text("file_name,question,answer\n")
    with refuses(DataError, path, "metadata.csv", "file_name"):
        load_file(path)
