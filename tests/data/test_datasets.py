"""What Hugging Face's datasets read and write, opsearch reads alike (where they are installed)."""

import gc
import json

import numpy as np
import pytest

from opsearch.data.files import load_file
from tests.support.pictures import picture

datasets = pytest.importorskip("datasets")
# Its reader of CSV leaves files open: `collected` closes them before the test ends.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
NAMES = ["1.png", "more/2.png", "3.png"]


@pytest.fixture(autouse=True)
def collected():
    """Free open files here, where their warnings are ignored, and not during a later test."""
    yield
    gc.collect()


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "pets"
    (folder / "more").mkdir(parents=True)
    for seed, name in enumerate(NAMES):
        picture("RGB", (6, 5), seed).save(folder / name)
    return folder


def loaded(folder, tmp_path):
    cache = str(tmp_path / "cache")
    return datasets.load_dataset("imagefolder", data_dir=str(folder), cache_dir=cache)["train"]


def assert_equal(item, row):
    images = row["images"] if "images" in row else [row["image"]]
    for image, expected in zip(item.load_images(), images, strict=True):
        assert np.array_equal(image, np.asarray(expected.convert("RGB")))
    assert item.question == row["question"]


@pytest.mark.parametrize("kind", ["jsonl", "csv"])
@pytest.mark.parametrize("name", ["file_name", "image_file_name"])
def test_an_imagefolder(folder, tmp_path, kind, name):
    rows = [{name: file, "question": f"what is {file}?", "answer": "it"} for file in NAMES]
    lines = [json.dumps(row) for row in rows]
    if kind == "csv":
        lines = [",".join(rows[0]), *(",".join(row.values()) for row in rows)]
    (folder / f"metadata.{kind}").write_text("\n".join(lines))
    for item, row in zip(load_file(folder), loaded(folder, tmp_path), strict=True):
        assert_equal(item, row)


@pytest.mark.parametrize("name", ["file_names", "images_file_names"])
def test_an_imagefolder_with_several_images(folder, tmp_path, name):
    rows = [{name: NAMES[:2], "question": "which?", "answer": "it"}]
    (folder / "metadata.jsonl").write_text(json.dumps(rows[0]))
    for item, row in zip(load_file(folder), loaded(folder, tmp_path), strict=True):
        assert_equal(item, row)


def test_shards_that_datasets_write(tmp_path):
    (tmp_path / "set" / "data").mkdir(parents=True)
    rows = {
        "image": [str(write(tmp_path / "set" / "data", seed)) for seed in range(4)],
        "question": [f"what is {number}?" for number in range(4)],
        "answers": [[{"answer": "a", "answer_id": 1}]] * 4,
    }
    data = datasets.Dataset.from_dict(rows).cast_column("image", datasets.Image())
    for number in range(2):
        name = f"data/train-0000{number}-of-00002.parquet"
        data.shard(2, number).to_parquet(tmp_path / "set" / name)
    for item, row in zip(load_file(tmp_path / "set"), data, strict=True):
        assert_equal(item, row)
        assert item.answers == ("a",)


def test_lists_of_images_that_datasets_write(tmp_path):
    images = [[picture("RGB", (6, 5), seed) for seed in pair] for pair in ((0, 1), (2, 3))]
    data = datasets.Dataset.from_dict({"images": images, "question": ["a", "b"], "answer": [1, 2]})
    data.to_parquet(tmp_path / "x.parquet")
    for item, row in zip(load_file(tmp_path / "x.parquet"), data, strict=True):
        assert_equal(item, row)


def write(folder, seed):
    picture("RGB", (6, 5), seed).save(path := folder / f"{seed}.png")
    return path
