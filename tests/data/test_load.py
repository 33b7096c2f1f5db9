"""Items by the name of their source."""

import json

import pytest

from opsearch.data.item import SAMPLES
from opsearch.data.load import load_items
from opsearch.errors import DataError
from tests.support.messages import refuses


@pytest.mark.parametrize("samples", [0, -1])
@pytest.mark.parametrize("source", ["demo", "lmms:textvqa_val", "a file"])
def test_fewer_than_one_sample_is_refused(source: str, samples: int, tmp_path) -> None:
    if source == "a file":
        source = tmp_path / "items.jsonl"
        record = {"image": "a.png", "question": "what?", "answer": "it"}
        source.write_text("".join(json.dumps(record) + "\n" for _ in range(3)))
    with refuses(DataError, samples, 1):
        load_items(source, samples=samples)


def test_the_default_number_of_samples() -> None:
    assert len(load_items("demo")) == SAMPLES
