"""Calibration samples of several draws, and test samples that none of them saw."""

import json
import re

import pytest

from opsearch.data.embedded import embedded
from opsearch.errors import DataError
from opsearch.runs.config import RunConfig
from opsearch.runs.draws import draw_items
from opsearch.runs.samples import run_items
from tests.support.messages import naming, refuses

LINES = 40


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("data")
    for number, item in enumerate(embedded("train", LINES)):
        item.images[0].save(path / f"{number}.png")
    return path


def data(folder, images=LINES, group=None):
    """Rows of which several have the same image, and a group if `group` gives one by number."""
    records = [
        {"image": f"{n % images}.png", "question": f"{n}?", "answer": "a"}
        | ({} if group is None else {"group": group(n)})
        for n in range(LINES)
    ]
    path = folder / "rows.jsonl"
    path.write_text("\n".join(map(json.dumps, records)))
    return path


def pixels(items):
    return {image.tobytes() for item in items for image in item.load_images()}


def config(path, **settings):
    return RunConfig(**{"data": path, "samples": 6, "heldout": 4, "seed": 3} | settings)


def test_embedded_draws_are_those_of_the_following_seeds():
    given = config(None)
    found = draw_items(given, 3, 5)
    for draw, calibration in enumerate(found.calibration):
        assert [item.id for item in calibration] == [
            item.id for item in run_items(given.changed(seed=3 + draw)).calibration
        ]
    compared = run_items(given, test=5).heldout
    assert [item.id for item in found.test] == [item.id for item in compared]


def test_draws_of_a_file_have_no_sample_in_common_and_begin_with_that_of_the_run(folder):
    given = config(data(folder))
    found = draw_items(given, 4, 10)
    assert found.calibration[0] == run_items(given).calibration
    digests = [item.digest() for part in (*found.calibration, found.test) for item in part]
    assert len(digests) == len(set(digests)) == 4 * 6 + 10
    assert found.notes == ()


@pytest.mark.parametrize("draws", [2, 4])
@pytest.mark.parametrize("images", [8, 13, 40])
@pytest.mark.parametrize("grouped", [False, True])
def test_no_draw_shares_an_image_or_a_group_with_the_test_samples(folder, draws, images, grouped):
    group = (lambda n: f"patient {n % images // 2}") if grouped else None
    given = config(data(folder, images, group), samples=3)
    found = draw_items(given, draws, 10)
    assert found.test
    for calibration in found.calibration:
        assert len(calibration) == 3
        assert not pixels(calibration) & pixels(found.test)
        groups = {item.group for item in calibration} - {None}
        assert not groups & {item.group for item in found.test}


def test_fewer_test_samples_than_asked_are_told(folder):
    found = draw_items(config(data(folder)), 5, 300)
    assert len(found.test) == LINES - 5 * 6
    (note,) = found.notes
    assert re.search(naming("10 of 300"), note)


@pytest.mark.parametrize(("draws", "images"), [(8, LINES), (7, LINES), (2, 1)])
def test_more_draws_than_the_data_hold_say_what_is_needed_and_what_is_there(folder, draws, images):
    path, samples = data(folder, images), 6 if draws < 8 else 5
    with refuses(DataError, f"--draws {draws}", draws * samples, samples, LINES, path, "--samples"):
        draw_items(config(path, samples=samples), draws, 300)
