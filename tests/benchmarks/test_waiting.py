"""The suite `waiting` times each setting in a process of its own, also beside busy ones."""

import pytest

from benchmarks.waiting import waiting


@pytest.mark.slow
def test_the_suite_times_each_setting():
    rows = list(waiting(products=5, rounds=1, others=(0, 1)))
    assert [row["others"] for row in rows] == [0, 1]
    for row in rows:
        for name in ("one_s", "two_busy_s", "two_asleep_s", "two_busy_ratio", "two_asleep_ratio"):
            low, middle, high = row[name]
            assert 0 < low <= middle <= high
