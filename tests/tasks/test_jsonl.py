"""JSON Lines files: what is read, and the sentence for everything that cannot be."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from opsearch.errors import DataError
from opsearch.tasks.jsonl import load_jsonl

GOOD = {"image": "a.png", "question": "what color?", "answer": "red"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    data = tmp_path / "data"
    (data / "sub").mkdir(parents=True)
    Image.new("RGB", (3, 3), "red").save(data / "a.png")
    Image.new("RGB", (3, 3), "blue").save(data / "sub" / "b.png")
    return data


def write(folder: Path, *lines: str | dict[str, Any]) -> Path:
    path = folder / "items.jsonl"
    text = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    path.write_text("\n".join(text), encoding="utf-8")
    return path


def test_short_and_long_form(folder: Path) -> None:
    long = {
        "images": ["sub/b.png", "./a.png"],
        "question": "wie weiß?",
        "answers": ["sehr", "very"],
        "id": "q7",
        "family": "compare",
    }
    first, second = load_jsonl(write(folder, GOOD, "", long))
    assert (first.id, first.family, first.answers) == ("items/1", "all", ("red",))
    assert first.load_images()[0].getpixel((0, 0)) == (255, 0, 0)
    assert (second.id, second.family, second.answers) == ("q7", "compare", ("sehr", "very"))
    assert second.question == "wie weiß?"
    assert [i.getpixel((0, 0)) for i in second.load_images()] == [(0, 0, 255), (255, 0, 0)]


def test_a_blank_answer_is_unknown(folder: Path) -> None:
    blank = {"image": "a.png", "question": "?", "answer": " "}
    some = {"image": "a.png", "question": "?", "answers": ["", "red"]}
    items = load_jsonl(write(folder, blank, some))
    assert [item.answers for item in items] == [(), ("red",)]


def test_unknown_answers_are_an_empty_list(folder: Path) -> None:
    unknown = {"image": "a.png", "question": "?", "answers": []}
    assert load_jsonl(write(folder, unknown))[0].answers == ()


def test_a_relative_path_works_from_elsewhere(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(folder, GOOD)
    monkeypatch.chdir(folder.parent)
    (item,) = load_jsonl("data/items.jsonl")
    monkeypatch.chdir("/")
    assert item.load_images()


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("{", "not valid JSON"),
        ("[" * 100_000, "not valid JSON"),
        ("[1]", "not a JSON object; write {"),
        ({"image": "a.png", "answer": "red"}, 'the key "question" is missing; write {'),
        ({**GOOD, "anwser": "x"}, 'the key "anwser" is unknown; leave it out or use one of'),
        ({**GOOD, "question": ""}, '"question" is wrong (String should have at least 1'),
        ({**GOOD, "answer": 7}, '"answer" is wrong (Input should be a valid string); write {'),
        ({**GOOD, "answers": ["red"]}, 'both of "answer" and "answers" given; write exactly one'),
        ({"image": "a.png", "question": "?"}, 'neither of "answer" and "answers" given'),
        ({"question": "?", "answer": "x"}, 'neither of "image" and "images" given'),
        ({"images": [], "question": "?", "answer": "x"}, '"images" is wrong (List should'),
        ({**GOOD, "image": "../a.png"}, "lies outside of the folder of the data file; move it"),
        ({**GOOD, "image": "sub/../../x"}, "lies outside of the folder"),
        ({**GOOD, "image": "/etc/passwd"}, "lies outside of the folder"),
        ({**GOOD, "image": "link/x.png"}, "lies outside of the folder"),
        ({**GOOD, "image": "a\0.png"}, "is not a path"),
        ({**GOOD, "id": "items/1"}, 'the id "items/1" is that of line 1, too; give every item'),
    ],
)
def test_a_bad_line_is_named_with_its_remedy(
    folder: Path, line: str | dict[str, Any], sentence: str
) -> None:
    (folder / "link").symlink_to(folder.parent)
    path = write(folder, GOOD, "", line)
    with pytest.raises(
        DataError, match=re.escape(f"{path}, line 3: ") + ".*" + re.escape(sentence)
    ):
        load_jsonl(path)


def test_an_empty_file_is_an_error(folder: Path) -> None:
    with pytest.raises(DataError, match=r"items\.jsonl holds no items; write one JSON object"):
        load_jsonl(write(folder, "", "  "))


def test_a_missing_file_is_an_error(folder: Path) -> None:
    with pytest.raises(DataError, match=r"none\.jsonl cannot be read \(No such file.*check the"):
        load_jsonl(folder / "none.jsonl")


def test_a_binary_file_is_an_error(folder: Path) -> None:
    with pytest.raises(DataError, match=r"a\.png is not UTF-8 text .*save it as UTF-8"):
        load_jsonl(folder / "a.png")
