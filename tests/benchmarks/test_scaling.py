"""The suite `scaling` measures growth of what it names; its workers are in test_scale_out.py."""

import pytest

from benchmarks.scaling import grown


@pytest.fixture(scope="module")
def least():
    return grown(layers=4, side=3)


def test_a_row_says_what_was_measured(least):
    shape = {"layers": 4, "visual_tokens": 9, "samples": 1, "policies": 11}
    assert shape.items() <= least.items()
    assert least["seconds"] > 0
    assert 1 < least["forwards"] < 11


@pytest.mark.parametrize("more", [{"layers": 8}, {"side": 6}, {"samples": 2}], ids=str)
def test_more_of_anything_is_more_work(least, more):
    row = grown(**{"layers": 4, "side": 3, **more})
    assert row["planned_gflops"] > least["planned_gflops"]
    if "samples" in more:
        assert row["planned_gflops"] == pytest.approx(2 * least["planned_gflops"], abs=0.002)
        assert row["forwards"] == least["forwards"]
