"""The speed of a fingerprint is that of all bytes of all weights."""

import pytest

from benchmarks.fingerprint import fingerprint_speed


def test_speed_and_time_agree():
    (row,) = fingerprint_speed(tiny=True)
    assert row["GB/s"] * row["s for 14 GB"] == pytest.approx(14)
    assert row["GB"] == pytest.approx(16 * 2**27 / 1000 / 1e9, rel=1e-3)
