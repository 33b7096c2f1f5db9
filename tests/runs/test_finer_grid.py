"""A proof over a grid of shares says what the grid leaves out, with the option that searches it."""

import json
import re
from fractions import Fraction
from io import StringIO

import numpy as np
import pytest
from rich.console import Console

from opsearch import Policy, RunConfig
from opsearch.commands.run import run
from opsearch.costs.shape import Shape
from opsearch.policy.ranker import RankerSpec
from opsearch.problem.objective import Table
from opsearch.problem.problem import Problem
from opsearch.problem.spaces.base import SpaceSettings
from opsearch.runs.finer_grid import unsearched_shares
from opsearch.runs.setup import make_constraints, make_space, parse_budgets
from opsearch.solvers.grid import Grid

SHAPE = Shape(layers=4, hidden=8, intermediate=12, heads=4, kv_heads=2, head_dim=3, vocab=11)


def searched(folder, **settings):
    config = RunConfig(space="tokens", samples=4, heldout=0, out=folder, **settings)
    return run(config, Console(file=StringIO()))


def test_a_search_between_two_shares_uses_what_the_grid_leaves(tmp_path):
    """The option of the note is taken as it is; the shares of the first search are among them."""
    first = searched(tmp_path / "first", budget=("30%",), n_v=("1/8", "3/4"))
    problem, solution = first.problem, first.solution
    left = 100 * (problem.constraints[0].limit - solution.costs["flops"])
    left /= problem.constraints[0].stock
    said, shares = re.search(r"([\d.]+) % .*--n-v (\S+)", solution.note).groups()
    assert float(said) == round(left, 1) > 0.5
    chosen = Fraction(solution.point["n_v"])
    above = min(each for each in problem.space.parameters[0].values if each > chosen)
    parsed = [Fraction(text) for text in shares.split(",")]
    assert parsed[0] == chosen
    assert parsed == sorted(parsed)
    assert parsed[-1] < above
    second = searched(tmp_path / "second", budget=("30%",), n_v=tuple(shares.split(",")))
    assert set(parsed) < set(second.problem.space.parameters[0].values)
    assert second.value <= first.value
    record = json.loads((tmp_path / "first" / "solution.json").read_text())
    assert record["note"] == solution.note


def stated(shares, values, budget):
    """Return a problem over shares with the given values at each, and its optimum."""
    space = make_space("tokens", SpaceSettings(num_layers=4, ranker=RankerSpec("cls"), n_v=shares))
    limits = make_constraints(parse_budgets([budget]), SHAPE, space, [(64, 16)] * 2)
    problem = Problem(space, Table("joint", "nats", np.array(values)), limits)
    return problem, Grid().solve(problem)


@pytest.mark.parametrize(
    ("values", "budget", "said"),
    [
        ([3.0, 2.0, 1.0, 0.0], "60%", True),  # 3/4 is over the budget
        ([3.0, 1.0, 2.0, 0.0], "60%", False),  # 1/2 is within it, and worse
        ([3.0, 2.0, 1.0, 0.0], "100%", False),  # nothing is larger
    ],
)
def test_nothing_is_said_where_the_grid_is_not_the_reason(values, budget, said):
    shares = (Fraction(1, 4), Fraction(3, 8), Fraction(1, 2), Fraction(1))
    problem, solution = stated(shares, values, budget)
    assert bool(unsearched_shares(problem, solution)) == said


def test_policy_and_record_tell_how_the_policy_was_found(tmp_path):
    config = RunConfig(
        space="dop",
        n_v=(".5",),
        objective="additive",
        verify=2,
        evaluations=4,
        samples=4,
        heldout=0,
        budget=("40%",),
        seed=3,
        out=tmp_path,
    )
    run(config, Console(file=StringIO()))
    record = json.loads((tmp_path / "solution.json").read_text())
    facts = Policy.from_pretrained(tmp_path).provenance
    assert {name: record[name] for name in facts if name != "cost"} == {
        name: facts[name] for name in facts if name != "cost"
    }
    wanted = {"space": "dop", "verify": 2, "draw": 3, "samples": 4}
    assert {name: facts[name] for name in wanted} == wanted
    assert facts["measured"] >= 4
    page = (tmp_path / "report.html").read_text()
    for words in ("space dop", f"{facts['measured']} policies", "draw 3", "2 at a time"):
        assert words in page, words
