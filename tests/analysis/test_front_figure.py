"""The front is exactly the points that no other point beats."""

import re
from fractions import Fraction
from time import process_time

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from opsearch.analysis.front import draw_front, front, front_table, save_front_figure
from opsearch.problem.constraint import Constraint
from opsearch.problem.spaces.depth import dop_space

# Few distinct numbers, so that ties of cost, of value and of both are common.
points = st.lists(
    st.tuples(st.integers(0, 6), st.one_of(st.just(float("nan")), st.integers(0, 6).map(float))),
    max_size=30,
)


def brute_force(costs, values):
    """Return points that no other beats in one and equals in the other, the first of equals."""
    kept = []
    for i, (cost, value) in enumerate(zip(costs, values, strict=True)):
        rivals = [j for j in range(len(costs)) if j != i and not np.isnan(values[j])]
        beaten = any(
            costs[j] <= cost
            and values[j] <= value
            and (costs[j] < cost or values[j] < value or j < i)
            for j in rivals
        )
        if not np.isnan(value) and not beaten:
            kept.append(i)
    return sorted(kept, key=lambda i: costs[i])


@given(points)
def test_the_front_is_that_of_brute_force(pairs):
    costs = np.array([cost for cost, _ in pairs], np.int64)
    values = np.array([value for _, value in pairs], np.float64)
    assert front(costs, values).tolist() == brute_force(costs, values)


def test_the_front_of_a_full_space_takes_less_than_ten_milliseconds():
    random = np.random.default_rng(0)
    costs, values = random.integers(0, 10**14, 17_424), random.random(17_424)
    seconds = []
    for _ in range(5):
        start = process_time()
        assert len(front(costs, values)) > 1
        seconds.append(process_time() - start)
    assert min(seconds) < 0.01


def example():
    space = dop_space(3, (Fraction(1, 2),))
    random = np.random.default_rng(0)
    costs = np.arange(len(space.points), dtype=np.int64) * 40 + 200
    values = random.random(len(costs))
    values[2] = np.nan
    return space, Constraint("flops", "FLOPs", costs, 500, int(costs.max()), 2), values


def test_the_table_names_parameters_and_costs_per_sample():
    space, constraint, values = example()
    table = front_table(space, constraint, values)
    rows = front(constraint.costs, values)
    columns = ["d_attn", "d_mlp", "n_v", "flops_per_sample", "share", "value"]
    assert table.columns.tolist() == columns
    assert table["value"].tolist() == values[rows].tolist()
    assert table["flops_per_sample"].tolist() == (constraint.costs[rows] / 2).tolist()
    assert table["share"].tolist() == (constraint.costs[rows] / constraint.stock).tolist()
    decoded = [
        [str(p.values[i]) for p, i in zip(space.parameters, space.points[row], strict=True)]
        for row in rows
    ]
    assert table[["d_attn", "d_mlp", "n_v"]].to_numpy().tolist() == decoded


def test_the_figure_shows_the_front_and_the_budget(tmp_path):
    space, constraint, values = example()
    table = front_table(space, constraint, values)
    (axes,) = draw_front(table, constraint, "joint", "nats").axes
    steps, dots, budget = axes.lines
    for line in (steps, dots):
        assert line.get_ydata().tolist() == table["value"].tolist()
        assert line.get_xdata().tolist() == (100 * table["share"]).tolist()
    assert budget.get_xdata() == [100 * 500 / constraint.stock] * 2
    assert "%" in axes.get_xlabel()
    assert re.match(r"joint\b.*\bnats\b", axes.get_ylabel())
    path = save_front_figure(table, constraint, "joint", "nats", tmp_path / "front.svg")
    assert path.read_text().startswith("<?xml")
