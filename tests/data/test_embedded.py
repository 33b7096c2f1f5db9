"""Items of the embedded tasks."""

import pytest

from opsearch.data.demo.generator import item
from opsearch.data.embedded import FAMILIES, SPLITS, embedded
from opsearch.errors import DataError
from tests.support.messages import refuses


def test_items_are_the_generated_examples() -> None:
    items = embedded("calibration", 18, seed=2)
    assert items[17].id == "embedded/calibration/2/17"
    example = item("calibration", 2, 17)
    assert (items[17].question, items[17].answers) == (example.question, (example.answer,))
    assert items[17].load_images()[0].tobytes() == example.pixels.tobytes()
    assert [i.family for i in items] == [*FAMILIES, *FAMILIES[:3]]


def test_more_items_only_append() -> None:
    few, many = embedded("test", 5), embedded("test", 20)
    assert [i.digest() for i in few] == [i.digest() for i in many[:5]]


def test_no_item_is_in_two_splits_or_seeds() -> None:
    items = [i for split in SPLITS for seed in (0, 1) for i in embedded(split, 60, seed)]
    assert len({i.digest() for i in items}) == len({i.id for i in items}) == len(items)


@pytest.mark.parametrize(
    ("split", "count", "seed", "named"),
    [
        ("dev", 3, 0, ("split", "'dev'", "train, calibration, held-out, test")),
        ("test", 0, 0, ("0", "1")),
        ("test", 3, -1, ("seed", "-1", "0")),
    ],
)
def test_impossible_requests_are_refused(
    split: str, count: int, seed: int, named: tuple[str, ...]
) -> None:
    with refuses(DataError, "embedded", *named):
        embedded(split, count, seed)
