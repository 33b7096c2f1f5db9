"""The suites of the solvers run from end to end, on decoders of few layers."""

import pytest

from benchmarks.layer_programs import layer_programs
from benchmarks.solvers import solvers


@pytest.mark.parametrize(
    ("suite", "names", "seconds"),
    [
        (lambda: solvers(layers=3, repeats=(2, 1)), {"grid", "ortools"}, "median_ms"),
        (lambda: layer_programs(layers=[3]), {"ortools", "scipy"}, "seconds"),
    ],
    ids=["solvers", "layer-programs"],
)
def test_all_solvers_prove_their_optimum(suite, names, seconds):
    rows = list(suite())
    assert {row["solver"] for row in rows} == names
    assert {row["status"] for row in rows} == {"optimal"}
    assert all(row[seconds] > 0 for row in rows)


def test_solvers_agree_on_the_same_problem():
    values = {}
    for row in layer_programs(layers=[3]):
        if "number" in row:
            values.setdefault(row["pairs"], []).append(row["value"])
    assert len(values) == 4
    assert all(max(found) == pytest.approx(min(found)) for found in values.values())
