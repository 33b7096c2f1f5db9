"""Amounts and times are shown in the unit that keeps them short."""

import pytest

from opsearch.formatting import counted, format_amount, format_duration


@pytest.mark.parametrize(
    ("amount", "unit", "shown"),
    [
        (0, "B", "0 B"),
        (999, "B", "999 B"),
        (5.83e12, "FLOPs", "5.83 TFLOPs"),
        (6.387e16, "FLOPs", "63.87 PFLOPs"),
        (1.887e18, "FLOPs", "1.887 EFLOPs"),
        (190_000_000_000_000_000, "FLOPs", "190 PFLOPs"),
        (2 * 10**21, "FLOPs", "2 ZFLOPs"),
        (2**83, "FLOPs", "9.671 YFLOPs"),
        (118e6, "ns", "118 ms"),
    ],
)
def test_amounts(amount, unit, shown):
    assert format_amount(amount, unit) == shown


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (0, "0 s"),
        (299, "299 s"),
        (300, "5 min"),
        (5 * 3600 - 1, "300 min"),
        (5 * 3600, "5 h"),
        (5 * 86400, "5 days"),
        (62_911_692, "728 days"),
        (86_400_000, "1,000 days"),
    ],
)
def test_durations(seconds, shown):
    assert format_duration(seconds) == shown


def test_one_thing_is_named_in_the_singular():
    assert [counted(n, "sample") for n in (0, 1, 1000)] == [
        "0 samples",
        "1 sample",
        "1,000 samples",
    ]
    assert [counted(n, "family", "families") for n in (1, 2)] == ["1 family", "2 families"]
