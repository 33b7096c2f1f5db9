"""Tables of papers: every number is that of the comparison, the best of a block is bold."""

import numpy as np
import pytest

from opsearch.analysis import equal_cost
from opsearch.analysis.equal_cost import Comparison, MethodScores
from opsearch.analysis.paper_tables import markdown, table

FAMILIES = ("vqa", "vqa", "low", "low", "a|b", "a|b")
ORIGINAL = np.array([1, 1, 1, 0, 1, 1.0])
SCORES = {
    ("20%", "depth joint"): [1, 0, 1, 0, 1, 1],
    ("20%", "VTW"): [0, 0, 1, 0, 1, 1],
    ("50%", "VTW"): [1, 1, 0, 0, 0, 1],
}


@pytest.fixture
def comparison():
    entries = [
        MethodScores(
            budget, method, "policy", 2e11, 0.199, *[np.zeros(6)] * 2, np.array(scores, float)
        )
        for (budget, method), scores in SCORES.items()
    ]
    return Comparison("FLOPs", FAMILIES, ORIGINAL, tuple(entries))


def test_rows_are_the_original_and_every_method_with_its_families(comparison):
    frame = table(comparison, "llava")
    assert list(frame["method"]) == ["original", "depth joint", "VTW", "VTW"]
    assert list(frame["budget"]) == ["100%", "20%", "20%", "50%"]
    # A family may have any name, also that of a column of the table.
    assert frame.loc[0, ["vqa", "'low'", "a|b"]].tolist() == [100, 50, 100]
    assert frame.loc[2, ["vqa", "'low'", "a|b"]].tolist() == [0, 50, 100]
    assert frame.loc[0, "Rel. Avg."] == 100
    averages = equal_cost.table(comparison)[["rel_avg", "low", "high"]]
    assert (frame.loc[1:, ["Rel. Avg.", "low", "high"]].to_numpy() == averages.to_numpy()).all()


def test_markdown_has_a_block_per_budget_and_sets_the_best_of_it_in_bold(comparison):
    title, _, head, _, original, first, joint, vtw, second, last = markdown(
        table(comparison, "llava")
    ).splitlines()
    assert title.startswith("llava: ")
    assert head == "| method | cost, % | vqa | 'low' | a\\|b | Rel. Avg. |"
    assert original == "| original | 100.0 | 100.0 | 50.0 | 100.0 | 100.0 |"
    assert [first.split("|")[1], second.split("|")[1]] == [" *within 20%* ", " *within 50%* "]
    assert joint.startswith("| depth joint | 19.9 | **50.0** | **50.0** | **100.0** | **83.3** (")
    assert vtw.startswith("| VTW | 19.9 | 0.0 | **50.0** | **100.0** | 66.7 (")
    assert last.startswith("| VTW | 19.9 | **100.0** | **0.0** | **50.0** | **50.0** (")
    cells = {line.replace("\\|", "").count("|") for line in (head, first, joint, last)}
    assert cells == {7}
