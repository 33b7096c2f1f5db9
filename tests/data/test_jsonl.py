"""JSON Lines files: accepted forms, and an error for each defect."""

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from opsearch.data.files import load_jsonl
from opsearch.errors import DataError
from tests.support.messages import refuses

GOOD = {"image": "a.png", "question": "what color?", "answer": "red"}
EXAMPLE = '{"image": '  # the start of the example line in every error that gives one


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


def test_an_image_may_be_a_list_and_images_a_path(folder: Path) -> None:
    short = {"image": ["sub/b.png", "a.png"], "question": "?", "answer": "x"}
    long = {"images": "a.png", "question": "?", "answer": "x"}
    first, second = load_jsonl(write(folder, short, long))
    assert [Path(str(image)).name for image in first.images] == ["b.png", "a.png"]
    assert [Path(str(image)).name for image in second.images] == ["a.png"]


@pytest.mark.parametrize(
    ("given", "answers"),
    [
        ({"answer": 3}, ("3",)),
        ({"answer": 3.0}, ("3",)),
        ({"answer": -3.5}, ("-3.5",)),
        ({"answer": 2**70}, (str(2**70),)),
        ({"answer": 1e300}, ("1e+300",)),
        ({"answer": ["a", 4, "", None]}, ("a", "4")),
        ({"answers": "a"}, ("a",)),
        ({"answer": [{"answer": "net", "answer_confidence": "yes"}, "nets"]}, ("net", "nets")),
        ({"answer": None}, ()),
        ({"answers": None}, ()),
        ({"answer": "a", "answers": None}, ("a",)),
    ],
)
def test_answers_may_be_numbers_and_lists(
    folder: Path, given: dict[str, Any], answers: tuple[str, ...]
) -> None:
    (item,) = load_jsonl(write(folder, {"image": "a.png", "question": "?", **given}))
    assert item.answers == answers


def test_words_about_an_item_may_be_numbers(folder: Path) -> None:
    words = {"id": 7, "family": 1.0, "group": 4, "metric": "anls"}
    (item,) = load_jsonl(write(folder, {**GOOD, **words}))
    assert (item.id, item.family, item.group, item.metric) == ("7", "1", "4", "anls")


def test_null_is_a_missing_key(folder: Path) -> None:
    nulls = dict.fromkeys(["images", "answers", "id", "family", "group", "metric"])
    assert load_jsonl(write(folder, {**GOOD, **nulls})) == load_jsonl(write(folder, GOOD))


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
    ("line", "named"),
    [
        ("{", ["JSON", EXAMPLE]),
        ("[" * 100_000, ["JSON", EXAMPLE]),
        ("[1]", ["JSON object", EXAMPLE]),
        ({"image": "a.png", "answer": "red"}, ['"question"', EXAMPLE]),
        ({**GOOD, "anwser": "x"}, ['"anwser"', "answer, answers"]),
        ({**GOOD, "question": ""}, ['"question"', "at least 1", EXAMPLE]),
        ({**GOOD, "question": " \u3000"}, ['"question"', "at least 1", EXAMPLE]),
        ({**GOOD, "answer": True}, ['"answer"', '"true"', '"yes"', EXAMPLE]),
        ({**GOOD, "answer": ["a", False]}, ['"answer"', '"false"', EXAMPLE]),
        ({**GOOD, "answer": float("nan")}, ['"answer"', "nan", EXAMPLE]),
        ({**GOOD, "answer": [["a"]]}, ['"answer"', "a list", EXAMPLE]),
        ({**GOOD, "answer": {"text": "a"}}, ['"answer"', "text", '"answer"', EXAMPLE]),
        ({**GOOD, "question": ["a"]}, ['"question"', "a list", EXAMPLE]),
        ({**GOOD, "question": None}, ['"question"', "missing", EXAMPLE]),
        ({**GOOD, "metric": "bleu"}, ['"metric"', '"bleu"', "match, vqa, anls, relaxed"]),
        ({**GOOD, "group": []}, ['"group"', "a list", EXAMPLE]),
        ({**GOOD, "group": True}, ['"group"', "true", EXAMPLE]),
        ({**GOOD, "family": ""}, ['"family"', "at least 1", EXAMPLE]),
        ({**GOOD, "image": 3}, ['"image"', "int", EXAMPLE]),
        ({**GOOD, "image": None}, ['"image"', "null", EXAMPLE]),
        ({**GOOD, "image": []}, ['"image"', "at least 1", EXAMPLE]),
        ({**GOOD, "image": ["a.png", None]}, ['"image"', "null", EXAMPLE]),
        ({**GOOD, "image": {"url": "a.png"}}, ['"image"', "url", EXAMPLE]),
        ({**GOOD, "image": "https://x.org/a.png"}, ["https://x.org/a.png", "URL", "download"]),
        ({**GOOD, "image": ["a.png", "S3://b/a.png"]}, ["S3://b/a.png", "URL", "download"]),
        ({**GOOD, "image": "data:image/png;base64," + 99 * "A"}, ["data:image/png", "...", "file"]),
        ({**GOOD, "answers": ["red"]}, ['"answer"', '"answers"', "one"]),
        ({"image": "a.png", "question": "?"}, ['"answer"', '"answers"', "one"]),
        ({"question": "?", "answer": "x"}, ['"image"', '"images"', "one"]),
        ({"images": [], "question": "?", "answer": "x"}, ['"images"', "at least 1", EXAMPLE]),
        ({**GOOD, "image": "../a.png"}, ["'../a.png'", "folder"]),
        ({**GOOD, "image": "sub/../../x"}, ["'sub/../../x'", "folder"]),
        ({**GOOD, "image": "/etc/passwd"}, ["'/etc/passwd'", "folder"]),
        ({**GOOD, "image": "link/x.png"}, ["'link/x.png'", "folder"]),
        ({**GOOD, "image": "a\0.png"}, [r"'a\x00.png'", "path"]),
        ({**GOOD, "id": "items/1"}, ['"items/1"', "line 1", "id"]),
    ],
)
def test_a_bad_line_is_named_with_the_next_step(
    folder: Path, line: str | dict[str, Any], named: list[str]
) -> None:
    (folder / "link").symlink_to(folder.parent)
    path = write(folder, GOOD, "", line)
    with refuses(DataError, path, "line 3", *named):
        load_jsonl(path)


def test_an_empty_file_is_an_error(folder: Path) -> None:
    with refuses(DataError, folder / "items.jsonl", EXAMPLE):
        load_jsonl(write(folder, "", "  "))


def test_a_missing_file_is_an_error(folder: Path) -> None:
    with refuses(DataError, folder / "none.jsonl", "No such file", "path"):
        load_jsonl(folder / "none.jsonl")


def test_a_binary_file_is_an_error(folder: Path) -> None:
    with refuses(DataError, folder / "a.png") as caught:
        load_jsonl(folder / "a.png")
    assert str(caught.value).count("UTF-8") == 2, "what the file is not, and the next step"


def test_a_line_that_is_no_json_has_one_number(folder: Path) -> None:
    path = write(folder, GOOD, '{"image": "a.png",')
    with refuses(DataError, "line 2") as caught:
        load_jsonl(path)
    assert str(caught.value).count("line 1") == 0
