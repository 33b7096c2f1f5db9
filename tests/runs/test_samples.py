"""Samples of a run from data with repeated pictures, which VQA sets have by construction."""

import json
import re
from dataclasses import replace

import pytest
from PIL import Image

from opsearch.data.embedded import embedded
from opsearch.data.item import Item
from opsearch.data.split import balanced
from opsearch.runs.config import RunConfig
from opsearch.runs.samples import given_items, run_items
from tests.support.messages import naming

LINES = 60


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Pictures with a number as name, the first ten as bmp too, and their questions as rows."""
    path = tmp_path_factory.mktemp("data")
    for number, item in enumerate(embedded("train", LINES)):
        item.images[0].save(path / f"{number}.png")
        if number < 10:
            item.images[0].save(path / f"{number}.bmp")
    return path


@pytest.fixture(scope="module")
def plain():
    return [
        {"image": f"{number}.png", "question": item.question, "answer": item.answers[0]}
        for number, item in enumerate(embedded("train", LINES))
    ]


def drawn(folder, records, samples=10, heldout=20, test=None, **settings):
    data = folder / "rows.jsonl"
    data.write_text("\n".join(map(json.dumps, records)))
    return run_items(RunConfig(data=data, samples=samples, heldout=heldout, **settings), test)


def sizes(found):
    return len(found.calibration), len(found.heldout)


def pixels(part):
    return {image.tobytes() for item in part for image in item.load_images()}


def assert_disjoint(found):
    assert not pixels(found.calibration) & pixels(found.heldout)
    for part in (found.calibration, found.heldout):
        assert len({item.digest() for item in part}) == len(part)


def test_a_single_sample_asks_for_more(folder, plain):
    found = drawn(folder, plain[:1], samples=1)
    assert sizes(found) == (1, 0)
    (shortage,) = found.notes
    assert re.search(naming("add samples"), shortage)


def test_one_row_per_annotator_is_one_sample(folder, plain):
    answers = ("{}", "{}s", "the {}")
    rows = [r | {"answer": a.format(r["answer"])} for r in plain[:10] for a in answers]
    found = drawn(folder, rows, samples=4)
    assert sizes(found) == (4, 6)
    assert_disjoint(found)
    answer_of = {(folder / r["image"], r["question"]): r["answer"] for r in plain}
    for item in found.calibration + found.heldout:
        answer = answer_of[item.images[0], item.question]
        assert item.answers == tuple(each.format(answer) for each in answers)
    merged, shortage = found.notes
    assert re.search(naming(20, 30), merged)
    assert re.search(naming(6, 20, "held-out"), shortage)


def test_questions_about_one_picture_stay_in_one_part(folder, plain):
    rows = [r | {"image": f"{n % 5}.png", "question": f"{n}?"} for n, r in enumerate(plain)]
    found = drawn(folder, rows)
    assert sizes(found) == (10, 20)
    assert_disjoint(found)
    assert len(pixels(found.calibration)) == 2
    (note,) = found.notes
    assert re.search(naming("10 calibration", "2 groups", "20 held-out", "3 groups", 60, 5), note)


def test_a_picture_is_known_by_its_pixels_not_its_file(folder, plain):
    kinds = ("png", "bmp")
    rows = [r | {"image": r["image"].replace("png", k)} for r in plain[:10] for k in kinds]
    found = drawn(folder, rows, samples=4)
    assert sizes(found) == (4, 6)
    assert_disjoint(found)


def test_questions_that_differ_in_case_are_two_samples_of_one_part(folder, plain):
    rows = [
        r | {"question": q} for r in plain[:10] for q in (r["question"], r["question"].capitalize())
    ]
    found = drawn(folder, rows)
    assert sizes(found) == (10, 10)
    assert_disjoint(found)


def test_groups_of_ones_own_stay_in_one_part(folder, plain):
    rows = [r | {"group": f"patient {n % 4}"} for n, r in enumerate(plain)]
    found = drawn(folder, rows)
    assert sizes(found) == (10, 20)
    first, second = ({item.group for item in part} for part in (found.calibration, found.heldout))
    assert first
    assert second
    assert not first & second


def test_one_picture_alone_cannot_be_divided(folder, plain):
    rows = [r | {"image": "0.png", "question": f"{n}?"} for n, r in enumerate(plain)]
    found = drawn(folder, rows)
    assert sizes(found) == (10, 0)
    assert re.search(naming("10 of 10", "0 of 20", "other images"), found.notes[-1])


def test_nothing_is_said_and_the_draw_is_as_ever_without_repeated_pictures(folder, plain):
    found = drawn(folder, plain, seed=5)
    assert found.notes == ()
    assert sizes(found) == (10, 20)
    more = drawn(folder, plain, heldout=50, seed=5)
    assert more.calibration == found.calibration
    assert more.heldout[:20] == found.heldout


def test_a_comparison_keeps_the_calibration_samples_of_the_run(folder, plain):
    """However many test samples it takes, and also where groups had to be divided."""
    rows = [r | {"image": f"{n % 5}.png", "question": f"{n}?"} for n, r in enumerate(plain)]
    run = drawn(folder, rows)
    for count in (1, 20, 300):
        compared = drawn(folder, rows, test=count)
        assert compared.calibration == run.calibration
        assert_disjoint(compared)
        assert len(compared.heldout) == min(count, 36)
    assert re.search(naming("36 of 300 test"), compared.notes[-1])


def test_rows_of_several_families_are_counted(folder, plain):
    rows = [plain[0] | {"family": "a"}, plain[0] | {"family": "b"}, plain[1], plain[1]]
    note, _ = drawn(folder, rows, heldout=0).notes
    assert re.search(naming(2, 4, 1, "families"), note)


def test_given_items_are_all_used_and_those_in_common_are_counted():
    red, blue = (Image.new("RGB", (2, 2), color) for color in ("red", "blue"))
    first = Item("1", "what?", ("a",), (red,))
    again, other = replace(first, id="2", answers=("b",)), replace(first, id="3", images=(blue,))
    found = given_items([first, again], [replace(first, question="who?"), other, other])
    assert [item.answers for item in found.calibration] == [("a", "b")]
    assert sizes(found) == (1, 2)
    assert any(re.search(naming("1 of 2 held-out"), note) for note in found.notes)
    assert given_items([first], [other]).notes == ()


def test_an_example_of_a_division():
    assert balanced([15, 10, 5], 10, 20) == {1}


def test_the_default_number_of_samples_leaves_the_held_out_ones(folder, plain, monkeypatch):
    """1,024 are searched on in space shares; a file with fewer rows keeps its held-out samples."""
    monkeypatch.setattr("opsearch.runs.config.SHARES_SAMPLES", 50)
    monkeypatch.setattr("opsearch.runs.samples.SAMPLES", 10)
    found = drawn(folder, plain, samples=None, space="shares")
    assert sizes(found) == (LINES - 20, 20)
    assert_disjoint(found)
    assert found.notes == ()
    again = drawn(folder, plain, samples=LINES - 20, space="shares")  # as run.yaml then says
    assert again.calibration == found.calibration
    assert again.heldout == found.heldout
    few = drawn(folder, plain[:15], samples=None, space="shares")
    assert sizes(few) == (10, 5)  # at least as many as other spaces draw
    assert re.search(naming("5 of 20 held-out"), *few.notes)
    enough = drawn(folder, plain, samples=None, heldout=5, space="shares")
    assert sizes(enough) == (50, 5)
