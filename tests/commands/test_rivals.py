"""The rivals are judged by the joint table, and none of them beats the optimum."""

import numpy as np
import pytest

from opsearch.analysis.choice import joint, ladder, whole, within
from opsearch.commands.rivals import describe, table
from tests.analysis.made import made


@pytest.fixture(scope="module")
def measured():
    return made()


def test_no_rival_is_below_the_optimum_of_the_table(measured):
    found = table(measured, seeds=2)
    rows = ladder(measured)
    budgets = found["budget"].unique()
    values = joint(measured, rows, whole(len(measured.items)))[:, 0] * measured.quantum
    for budget, size in zip(budgets, within(measured, rows, budgets), strict=True):
        at = found[found["budget"] == budget].set_index("method")
        assert at.loc["optimum", "kl"] == pytest.approx(values[:size].min())
        assert at.loc["optimum", "evaluations"] == size
        assert (at["loss"] >= 0).all()
        assert np.allclose(at["loss"], at["kl"] - at.loc["optimum", "kl"])
        assert (at["low"] <= at["loss"]).all()
        assert (at["loss"] <= at["high"]).all()


def test_all_but_the_optimum_have_as_many_evaluations(measured):
    found = table(measured, seeds=1)
    alone = sum(len(parameter.values) for parameter in measured.space.parameters)
    assert set(found.loc[found["method"] != "optimum", "evaluations"]) == {alone}


def test_the_table_is_told_with_budgets_across(measured):
    found = table(measured, seeds=2)
    lines = describe(found).splitlines()
    assert lines[0].count("%") == found["budget"].nunique()
    assert {line.split(" | ")[0] for line in lines[2:]} == {
        "| optimum",
        "| additive, ortools",
        "| additive, threshold",
        "| optuna",
    }
    # The row of the one budget that no threshold meets here.
    assert sum(" | - |" in line for line in lines) == 1
