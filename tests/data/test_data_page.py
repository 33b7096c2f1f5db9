"""docs/data.md: each example is a data set that loads."""

import logging
import re
from pathlib import Path

import pytest
from PIL import Image

from opsearch.data.load import load_items
from tests.support.messages import naming

PAGE = (Path(__file__).parents[2] / "docs" / "data.md").read_text()
FILE = re.compile(r"^\*\*`([^`]+)`\*\*\n\n```\w*\n(.*?)^```", re.DOTALL | re.MULTILINE)
PYTHON = re.compile(r"^```python\n(.*?)^```", re.DOTALL | re.MULTILINE)
COMMAND = re.compile(r"^opsearch (?:run|eval) .*$", re.MULTILINE)
GIVEN = [re.sub(r".*--data '?([^' ]+).*", r"\1", line) for line in COMMAND.findall(PAGE)]
PICTURE = re.compile(r"[\w/]+\.(?:jpg|png)")


@pytest.fixture
def written(tmp_path, monkeypatch):
    """All files of the page, with a picture for each path in them."""
    monkeypatch.chdir(tmp_path)
    for name, content in FILE.findall(PAGE):
        path = Path(name)
        for picture in PICTURE.findall(content):
            draw(path.parent / picture)
        path.write_text(content)
    for code in PYTHON.findall(PAGE):
        exec(code, {})
    shards = Path("textvqa/data")
    shards.mkdir(parents=True)
    for number in range(2):
        part = Path("questions.parquet").read_bytes()
        for split in ("train", "test"):
            (shards / f"{split}-0000{number}-of-00002.parquet").write_bytes(part)
    for name in ("cat.jpg", "left.png", "right.png"):
        draw(shards / name)


def draw(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (3, 3), "red").save(path)


@pytest.mark.usefixtures("written")
def test_every_example_loads(caplog):
    caplog.set_level(logging.WARNING, "opsearch")
    loaded = {name: load_items(name) for name in GIVEN}
    assert {name: len(items) for name, items in loaded.items()} == {
        "questions.jsonl": 4,
        "questions.parquet": 2,
        "textvqa/data/train-*.parquet": 4,
        "pets": 2,
        "views": 1,
    }
    for items in loaded.values():
        assert all(item.load_images() for item in items)
    first, second, third, fourth = loaded["questions.jsonl"]
    assert [item.answers for item in (first, second, third, fourth)] == [
        ("cat",),
        ("3", "three"),
        ("12.5",),
        (),
    ]
    assert (third.id, third.family, third.group, third.metric) == ("q7", "bills", "4", "relaxed")
    assert [len(item.images) for item in loaded["questions.parquet"]] == [1, 2]
    assert [item.answers for item in loaded["pets"]] == [("cat",), ("4",)]
    assert len(loaded["views"][0].images) == 2
    notes = "\n".join(caplog.messages)
    assert re.search(naming("question_id", "breed"), notes)
