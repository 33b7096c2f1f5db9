"""The thirteen benchmarks as lmms-eval's tasks over generated pictures in local parquet files.

Each file has the columns of the real data set that prompt, answer extraction and metric read; the
questions are those of the embedded tasks, so that the embedded model can answer some.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from itertools import count, islice
from pathlib import Path

import datasets
import lmms_eval.tasks
import yaml
from PIL import Image

from opsearch.data.demo.families import FAMILIES
from opsearch.data.demo.generator import item
from opsearch.evaluation.lmms.benchmarks import BENCHMARKS

BUILTIN = Path(lmms_eval.tasks.__file__).parent
PER_TASK = 4
LETTERS = "ABCD"


@dataclass(frozen=True)
class TaskSource:
    """File of the task within lmms-eval, its split, the family asked about, columns of a row."""

    file: str
    split: str
    family: str
    columns: Callable


def vqa(row, question, answer):
    return {"question_id": row, "question": question, "answers": [answer] * 10}


def vqav2(row, question, answer):
    answers = [{"answer": answer, "answer_confidence": "yes", "answer_id": i} for i in range(10)]
    return {"question_id": row, "question": question, "answers": answers}


def gqa(row, question, answer):
    return {"id": str(row), "imageId": str(row), "question": question, "answer": answer}


def scienceqa(row, question, answer):
    choices = ["north", "south", "west", "east"]
    hint = "" if row % 2 else "A picture."
    return {
        "question": question,
        "choices": choices,
        "answer": LETTERS.index(answer),
        "hint": hint,
    }


def seedbench(row, question, answer):
    options = {f"choice_{letter}": f"option {letter}" for letter in "abcd"}
    return {
        "question_id": str(row),
        "question": question,
        "answer": answer,
        "data_type": "image",
        **options,
    }


def yes_no(row, question, answer):
    """Two questions on each picture, as MME counts them, in two categories."""
    category = "existence" if row < 2 else "code_reasoning"
    return {
        "question_id": f"{row // 2}.png",
        "question": question,
        "answer": answer.capitalize(),
        "category": category,
    }


def pope(row, question, answer):
    return {
        "question_id": str(row),
        "question": question,
        "answer": answer,
        "category": "adversarial",
    }


def mmbench(row, question, answer):
    options = {letter: f"option {letter}" for letter in LETTERS}
    return {
        "index": row,
        "question": question,
        "hint": "nan",
        "answer": answer,
        "category": "ocr",
        "L2-category": "coarse_perception",
        "source": "made",
        "split": "dev",
        **options,
    }


def ai2d(row, question, answer):
    return {
        "question": question,
        "options": ["north", "south", "west", "east"],
        "answer": str(LETTERS.index(answer)),
    }


def chartqa(row, question, answer):
    kind = "human_test" if row % 2 else "augmented_test"
    return {"type": kind, "question": question, "answer": answer}


def ocrbench(row, question, answer):
    return {
        "dataset": "IIIT5K",
        "question_type": "Regular Text Recognition",
        "question": question,
        "answer": [answer],
    }


SOURCES = {
    "textvqa": TaskSource("textvqa/textvqa_val.yaml", "validation", "word", vqa),
    "vqav2": TaskSource("vqav2/vqav2_val.yaml", "validation", "color", vqav2),
    "gqa": TaskSource("gqa/gqa.yaml", "testdev", "shape", gqa),
    "vizwiz": TaskSource("vizwiz_vqa/vizwiz_vqa_val.yaml", "val", "count", vqa),
    "scienceqa": TaskSource("scienceqa/scienceqa_img.yaml", "test", "letter", scienceqa),
    "seedbench": TaskSource("seedbench/seedbench.yaml", "test", "letter", seedbench),
    "mme": TaskSource("mme/mme.yaml", "test", "exist", yes_no),
    "pope": TaskSource("pope/pope.yaml", "test", "exist", pope),
    "mmbench": TaskSource("mmbench/mmbench_en_dev_static.yaml", "dev", "letter", mmbench),
    "mmbench_cn": TaskSource("mmbench/mmbench_cn_dev.yaml", "dev", "letter", mmbench),
    "ai2d": TaskSource("ai2d/ai2d.yaml", "test", "letter", ai2d),
    "chartqa": TaskSource("chartqa/chartqa.yaml", "test", "bar_value", chartqa),
    "ocrbench": TaskSource("ocrbench/ocrbench.yaml", "test", "word", ocrbench),
}


@cache
def examples(family):
    """The first test items of a family; of letters only those that an option can have."""
    every = (item("test", 0, index) for index in count(list(FAMILIES).index(family), len(FAMILIES)))
    usable = (each for each in every if family != "letter" or each.answer in LETTERS)
    return list(islice(usable, PER_TASK))


def rows(name):
    """Rows of a benchmark's file, with pictures."""
    source = SOURCES[name]
    made = []
    for row, example in enumerate(examples(source.family)):
        image = Image.fromarray(example.pixels)
        picture = [image] if name == "seedbench" else image
        made.append({"image": picture} | source.columns(row, example.question, example.answer))
    return made


def write_task(folder, name, **changes):
    """A benchmark's task over a local file; `changes` of its settings."""
    data = folder / f"{name}.parquet"
    dataset = datasets.Dataset.from_list(rows(name))
    picture = datasets.Image()
    if name == "seedbench":
        picture = datasets.List(picture)
    dataset = dataset.cast_column("image", picture)
    dataset.to_parquet(data)
    source = SOURCES[name]
    settings = {
        "include": str(BUILTIN / source.file),
        "task": BENCHMARKS[name].task,
        "dataset_path": "parquet",
        "dataset_name": None,
        "dataset_kwargs": {"data_files": {source.split: str(data)}},
    }
    if name == "gqa":
        settings["process_docs"] = None  # it takes the pictures from the hub
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(settings | changes))
    return f"{folder}/{name}"
