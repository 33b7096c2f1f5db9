"""Rows of one input become one sample with the answers of all."""

from dataclasses import replace

import pytest
from PIL import Image

from opsearch.data.item import Item
from opsearch.data.pictures import EncodedImage
from opsearch.data.rows import Rows, bundled, merged
from tests.data.tables import write_pictures


def rows(answers, metric="match"):
    return [
        Item(f"{n}", "what?", tuple(each), (), metric=metric, family="ab"[n > 0])
        for n, each in enumerate(answers)
    ]


@pytest.mark.parametrize(
    ("metric", "answers", "together"),
    [
        ("match", ["a", "b", "a"], ("a", "b")),
        ("anls", [["a", "b"], ["b", "c"], []], ("a", "b", "c")),
        ("vqa", ["a", "b", "a"], ("a", "b", "a")),
        ("vqa", [["a", "a", "b"], ["a", "a", "b"], ["c", "b"]], ("a", "a", "b", "c", "b")),
    ],
)
def test_answers_are_those_of_all_annotators(metric, answers, together):
    found = merged(rows(answers, metric))
    assert (found.id, found.family, found.metric) == ("0", "a", metric)
    assert found.answers == together


def test_a_sample_has_the_answers_of_all_its_files(tmp_path):
    folder = write_pictures(tmp_path)
    answers = {"0.png": "a", "1.png": "b", "0.bmp": "c", "0.tiff": "d"}
    every = [Item(name, "what?", (a,), (folder / name,)) for name, a in answers.items()]
    again = Item("again", "what?", ("e",), (folder / "0.png",))
    other = Item("other", "who?", ("f",), (folder / "0.png",))
    read = Rows(bundled([*every, again, other]))
    found = [read.sample(row.digest) for row in read]
    assert [len(read.digests), read.count] == [3, 6]
    assert {item.id: set(item.answers) for item in found} == {
        "0.png": {"a", "c", "d", "e"},
        "1.png": {"b"},
        "other": {"f"},
    }


def test_rows_with_the_bytes_of_one_image_are_together_before_any_is_decoded():
    """As in a Parquet file, where each annotator's row holds the image again."""
    shown = [(b"one", "what?"), (b"two", "what?"), (b"one", "who?"), (b"one", "what?")]
    every = [
        Item(f"{n}", question, (f"{n}",), (EncodedImage(bytes(bytearray(data)), f"row {n}"),))
        for n, (data, question) in enumerate(shown)
    ]
    assert [[item.id for item in each] for each in bundled(every)] == [["0", "3"], ["1"], ["2"]]


def test_a_file_is_read_once_whatever_is_asked_about_it(tmp_path):
    folder = write_pictures(tmp_path)
    every = [Item(f"{n}", f"{n}?", (), (folder / f"{n % 2}.png",)) for n in range(6)]
    read, alone = Rows(bundled(every)), [replace(item).digest() for item in every]
    for position, row in enumerate(read):
        assert row.digest == alone[position]
        if position == 1:
            for file in folder.iterdir():
                file.unlink()
    assert len(read.digests) == 6


def test_images_in_memory_are_compared_by_content():
    first, second = (Image.new("RGB", (2, 2), "red") for _ in range(2))
    read = Rows(bundled([Item("1", "?", (), (first,)), Item("2", "?", (), (second,))]))
    assert len({row.digest for row in read}) == 1


def test_a_row_alone_is_left_as_it_is():
    (item,) = rows([["a", "a"]])
    assert merged([item]) is item
