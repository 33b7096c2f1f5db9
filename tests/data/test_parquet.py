"""Parquet files: the columns and errors of JSON Lines files, images within the file, shards."""

import json
import re
from decimal import Decimal
from io import BytesIO

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from opsearch.data import pictures
from opsearch.data.files import load_file, load_jsonl
from opsearch.errors import DataError
from tests.support.messages import naming, refuses

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
        ([{"image": "a.png", "answer": "red"}], ["row 1", '"question"', '{"image": ']),
        (
            [{"image": "a.png", "query": "what?", "label": "red"}],
            ["row 1", '"question"', "columns are image, query, label"],
        ),
        ([{"question": "?", "answer": "red", "picture": 1}], ["row 1", '"image"', "picture"]),
        ([{"colour": 1}], ["row 1", '"question"', "colour"]),
        ([{**ROWS[0], "image": {"bytes": None, "path": None}}], ["row 1", '"image"', "null"]),
        ([{**ROWS[0], "image": {"array": 1}}], ["row 1", '"image"', "array"]),
        ([{**ROWS[0], "image": [[1, 2], [3, 4]]}], ["row 1", '"image"', "a list"]),
        ([{**ROWS[0], "image": "http://x.org/a.png"}], ["row 1", "http://x.org/a.png", "download"]),
        ([ROWS[0], {**ROWS[0], "id": "2", "answer": None}, {"id": "3"}], ["row 3", "question"]),
        ([], ["item", "row"]),
    ],
    ids=[
        *("repeated", "outside", "missing", "named otherwise", "no image", "no key", "null image"),
        *("no image struct", "pixels", "URL", "missing in one row", "empty"),
    ],
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


def png(color, size=(3, 3)):
    buffer = BytesIO()
    Image.new("RGB", size, color).save(buffer, "PNG")
    return buffer.getvalue()


def table(folder, name="items.parquet", **columns):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path)
    return path


def test_images_are_bytes_paths_or_both(folder):
    given = [
        {"bytes": png("red"), "path": "a.png"},
        {"bytes": png("red"), "path": None},
        {"bytes": None, "path": "a.png"},
    ]
    path = table(folder, image=given, question=["?"] * 3, answer=["red"] * 3)
    raw = table(folder, "raw.parquet", image=[png("red")], question=["?"], answer=["red"])
    items = [*load_file(path), *load_file(raw)]
    expected = load_file(write(folder, [ROWS[0]]))[0].picture_digests
    assert [item.picture_digests for item in items] == [expected] * 4


def test_lists_of_images_keep_their_order(folder):
    images = [[{"bytes": png(color), "path": None} for color in ("red", "blue")], []]
    path = table(folder, images=images[:1], question=["?"], answer=["red"])
    (item,) = load_file(path)
    assert [i.getpixel((0, 0)) for i in item.load_images()] == [(255, 0, 0), (0, 0, 255)]
    path = table(folder, images=images, question=["?"] * 2, answer=["red"] * 2)
    with refuses(DataError, path, "row 2", '"images"', "at least 1"):
        load_file(path)


def test_a_broken_image_is_named_with_file_and_row(folder):
    images = [{"bytes": png("red")[:40], "path": "b.png"}, {"bytes": b"", "path": None}]
    path = table(folder, image=images, question=["?"] * 2, answer=["a"] * 2)
    first, second = load_file(path)
    with refuses(DataError, path, "row 1", "b.png", "items/1"):
        first.load_images()
    with refuses(DataError, path, "row 2", "items/2"):
        second.digest()


def test_no_image_is_decoded_while_reading(folder, monkeypatch):
    def decoded(*_):
        raise AssertionError("decoded")

    image = {"bytes": png("red", (64, 64)), "path": None}
    count = 1000
    path = table(folder, image=[image] * count, question=["?"] * count, answer=["a"] * count)
    with monkeypatch.context() as patched:
        patched.setattr(pictures, "_opened", decoded)
        items = load_file(path)
    assert len(items) == count
    assert items[-1].load_images()[0].size == (64, 64)


def test_other_columns_are_ignored_and_named_once(folder, caplog):
    rows = [{**ROWS[0], "id": str(n), "question_id": n, "ocr_tokens": ["a"]} for n in range(3)]
    items = load_file(write(folder, rows))
    assert len(items) == 3
    (message,) = caplog.messages
    assert re.search(naming(folder / "items.parquet", "question_id, ocr_tokens", "group"), message)


def test_answers_of_typed_columns(folder):
    columns = {
        "int": [3, None],
        "float": [3.0, 3.5],
        "decimal": [Decimal("3.00"), Decimal("3.50")],
        "list": [[1, 2], []],
        "VQAv2": [[{"answer": "net", "answer_id": 1}], [{"answer": "a", "answer_id": 2}]],
        "bytes": [b"a", b"b"],
        "bool": [True, False],
    }
    found = {}
    for kind, answers in columns.items():
        path = table(folder, image=["a.png"] * 2, question=["?"] * 2, answers=answers)
        try:
            found[kind] = [item.answers for item in load_file(path)]
        except DataError as error:
            found[kind] = re.search(naming(path, "row 1", '"answers"'), str(error)) is not None
    assert found == {
        "int": [("3",), ()],
        "float": [("3",), ("3.5",)],
        "decimal": [("3",), ("3.5",)],
        "list": [("1", "2"), ()],
        "VQAv2": [("net",), ("a",)],
        "bytes": True,
        "bool": True,
    }


def shard(folder, name, *questions):
    count = len(questions)
    image = {"bytes": png("red"), "path": None}
    return table(folder, name, image=[image] * count, question=questions, answer=["a"] * count)


def test_shards_are_one_data_set(tmp_path):
    for name, questions in (("00000", "ab"), ("00001", "c")):
        shard(tmp_path, f"data/train-{name}-of-00002.parquet", *questions)
    (tmp_path / "README.md").write_text("a data set")
    (tmp_path / ".cache").mkdir()
    (tmp_path / ".cache" / "x.parquet").write_text("no data")
    for given in (tmp_path, tmp_path / "data", tmp_path / "data" / "train-*.parquet"):
        items = load_file(given)
        assert "".join(item.question for item in items) == "abc"
        assert len({item.id for item in items}) == 3


def test_one_split_of_several_is_given_by_a_pattern(tmp_path):
    for split in ("train", "test"):
        shard(tmp_path, f"data/{split}-00000-of-00001.parquet", split)
    for given in (tmp_path, tmp_path / "data", tmp_path / "data" / "*.parquet"):
        with refuses(DataError, tmp_path / "data", "test, train", "*.parquet"):
            load_file(given)
    assert [item.question for item in load_file(tmp_path / "data" / "test*.parquet")] == ["test"]


def test_a_missing_shard_is_named(tmp_path):
    shard(tmp_path, "train-00001-of-00003.parquet", "a")
    with refuses(DataError, tmp_path, "0, 2", 3, "train"):
        load_file(tmp_path)


@pytest.mark.parametrize("name", ["train-*.parquet", "*.jsonl"])
def test_a_pattern_without_shards_is_named(tmp_path, name):
    (tmp_path / "x.jsonl").write_text("{}")
    with refuses(DataError, tmp_path / name, "shards"):
        load_file(tmp_path / name)


def test_an_id_that_two_shards_have_is_named(tmp_path):
    for number in range(2):
        image = [{"bytes": png("red"), "path": None}]
        name = f"train-0000{number}-of-00002.parquet"
        table(tmp_path, name, image=image, question=["?"], answer=["a"], id=[7])
    with refuses(DataError, "train-00001-of-00002.parquet", '"7"', "train-00000-of-00002.parquet"):
        load_file(tmp_path)
