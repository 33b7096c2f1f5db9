"""The verdict names each better method, in which measure, and no other."""

import re

import numpy as np
import pandas as pd
import pytest

from opsearch.problem.solution import OF_PROXY
from opsearch.report.verdict import (
    NOTHING_RIGHT,
    best_methods,
    better_baselines,
    cell,
    proxy_warning,
    verdict,
)
from tests.support.broken_part import broken_part
from tests.support.messages import naming

ROWS = ["FLOPs, mean", "% of stock", "KL calibration", "KL held-out", "Rel. Avg., %", "  % free"]


def frame(chosen, other, third=(10.0, 30.0, 9.0, 9.0, 1.0, 1.0)):
    original = (33.0, 100.0, 0.0, 0.0, 100.0, 100.0)
    columns = {"original": original, "opsearch": chosen, "FastV like": other, "VTW": third}
    return pd.DataFrame(columns, index=ROWS)


def test_no_baseline_is_better():
    table = frame((10.0, 30.0, 0.5, 0.6, 90.0, 80.0), (9.0, 27.0, 0.5, 0.7, 90.0, 99.0))
    assert better_baselines(table) == ""
    (known,) = verdict(table)
    assert re.search(r"\bKL\b.*\bnats\b.*\b0\.500\b.* calibration\b.*\b0\.600\b.* held-out", known)


def test_who_is_better_is_named_with_both_numbers():
    table = frame((10.0, 30.0, 0.5, 0.6, 90.0, 80.0), (9.0, 27.0, 0.7, 0.4, 91.0, 99.0))
    better = better_baselines(table)
    assert re.match(r"FastV like .*\bKL held-out\b.*0\.400\b.*0\.600\b.*\bRel\. Avg\.", better)
    assert re.search(r"\bRel\. Avg\. .*\b91\.0 %.*\b90\.0 %", better)
    assert "VTW" not in better
    assert verdict(table)[1].startswith(better)


def test_without_held_out_data_only_calibration_is_told():
    table = frame((10.0, 30.0, 0.5, np.nan, 90.0, 80.0), (9.0, 27.0, 0.7, np.nan, 80.0, 99.0))
    table = table.drop("Rel. Avg., %")
    table.loc["KL held-out"] = np.nan
    (known,) = verdict(table)
    assert re.search(naming("0.500", "calibration"), known)
    assert "held-out" not in known


def test_a_difference_that_the_table_does_not_show_is_none():
    table = frame((10.0, 30.0, 4e-4, 0.6, 90.0, 80.0), (9.0, 27.0, 1e-4, 0.6, 90.01, 99.0))
    assert better_baselines(table) == ""


def test_an_original_without_a_right_answer_judges_no_baseline():
    table = frame((10.0, 30.0, 0.5, 0.6, np.nan, 0.0), (9.0, 27.0, 0.7, 0.7, np.nan, 0.0))
    table.loc["accuracy, %"] = 0.0
    assert verdict(table)[-1].startswith(NOTHING_RIGHT)
    table.loc["accuracy, %", "original"] = 5.0
    assert not verdict(table)[-1].startswith(NOTHING_RIGHT)


def test_all_of_the_best_are_best_but_costs_are_no_contest():
    table = frame((10.0, 30.0, 0.5, 0.6, 90.0, 80.0), (9.0, 27.0, 0.5, 0.7, 80.0, 99.0))
    assert best_methods(table, "KL calibration") == ["opsearch", "FastV like"]
    assert best_methods(table, "  % free") == ["FastV like"]
    assert best_methods(table, "FLOPs, mean") == best_methods(table, "% of stock") == []


def test_cells_read_as_people_write():
    assert cell("FLOPs, mean", 170.34e6) == "170.3 M"
    assert (cell("KV bytes, mean", 262144.0), cell("prefill ms", 12.34)) == ("262.1 k", "12.3")
    assert (cell("KL held-out", 1.23456), cell("  count", 65.0)) == ("1.235", "65.0")
    assert cell("KL held-out", float("nan")) == "-"


def test_amounts_are_printed_though_a_package_of_costs_is_broken():
    with broken_part("costs"):
        assert cell("FLOPs, mean", 1.5e12) == "1.5 T"


@pytest.mark.parametrize(
    ("ended", "unit", "value", "measured", "warns"),
    [
        (OF_PROXY, "nats", 0.03, 1.572, True),
        (OF_PROXY, "nats", 1.572, 0.03, True),
        (OF_PROXY, "nats", 0.3, 0.59, False),
        (OF_PROXY, "nats", 0.0, 0.0, False),
        (OF_PROXY, "nats", 0.3, np.nan, False),
        (OF_PROXY, "points", 0.03, 1.572, False),
        ("optimal", "nats", 0.03, 1.572, False),
    ],
)
def test_a_proxy_that_is_off_by_more_than_a_factor_of_two_is_no_guide(
    ended, unit, value, measured, warns
):
    table = frame((10.0, 30.0, 0.5, 0.6, 90.0, 80.0), (9.0, 27.0, 0.7, 0.4, 91.0, 99.0))
    table.loc["KL calibration", "opsearch"] = measured
    warning = proxy_warning(ended, value, unit, table)
    assert bool(warning) == warns
    if warns:
        assert re.search(naming(f"{value:.3f}", f"{measured:.3f}", "--verify 8"), warning)
