"""The suite `racing` finds the same policy by racing as by complete measurement."""

import pytest

from benchmarks.racing import racing


def test_the_suite_compares_both():
    (row,) = racing(tiny=True)
    assert row["same"]
    assert row["policies"] > 20
    assert 0 < row["forwards_raced"] < row["forwards_complete"]
    assert row["share"] == pytest.approx(row["forwards_raced"] / row["forwards_complete"], abs=0.1)
