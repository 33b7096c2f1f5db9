"""Runs over a choice per operation, whose policies are too many to list."""

import re
from io import StringIO

import pytest
from rich.console import Console

from opsearch import RunConfig
from opsearch.dry_run import dry_run
from opsearch.errors import OpsearchError, RunFolderError
from opsearch.front import run_front
from opsearch.objectives.pairwise import MeasuredPairs
from opsearch.policy import MLP
from opsearch.printing import print_dry_run, print_front
from opsearch.run import run
from opsearch.solution import Status
from opsearch.solve import solve

SETTINGS = {"space": "layers", "n_v": ("1/4",), "samples": 2, "heldout": 0, "budget": ("40%",)}


def silent():
    return Console(file=StringIO(), width=200)


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    settings = SETTINGS | {"objective": "pairwise", "keep": "0:mlp", "verify": 2}
    folder = tmp_path_factory.mktemp("layers") / "run"
    return run(RunConfig(**settings, evaluations=4, out=folder), silent())


def test_pairs_propose_and_joint_disposes(done):
    assert (done.config.objective, done.config.solver) == ("pairwise", "ortools")
    assert done.solution.objective == "joint"
    assert done.solution.status is Status.FEASIBLE
    assert done.solution.policy.name.startswith("layers(q=")
    assert done.solution.policy.resolve(100)[0, MLP] > 0
    assert done.solution.evaluations <= 4
    assert re.search(r"interactions are \d+% of what pairs cost alone", done.solution.note)
    assert done.solution.costs["flops"] <= done.problem.constraints[0].limit


def test_the_report_says_what_it_cannot_draw(done):
    page = (done.folder / "report.html").read_text()
    assert "too many to list" in page
    assert f"opsearch front {done.folder}</code> finds one" in page
    assert not (done.folder / "front.csv").exists()


def test_it_is_solved_again_from_what_is_stored(done, tmp_path):
    problem, solution, _ = solve(done.folder, budget=["60%"], out=tmp_path / "again")
    assert solution.status is Status.OPTIMAL
    assert solution.objective == "pairwise"
    assert "the proxy alone" in solution.note
    assert solution.costs["flops"] <= problem.constraints[0].limit


def test_the_proxy_is_the_default_and_proves_its_optimum(tmp_path):
    result = run(RunConfig(**SETTINGS, out=tmp_path / "run"), silent())
    assert (result.config.objective, result.config.solver) == ("additive", "ortools")
    assert result.solution.status is Status.OPTIMAL


def test_the_front_is_walked_and_no_budget_has_a_better_policy(done):
    found, path = run_front(done.folder)
    assert found.table["proved"].all()
    assert "every point is proved, and there are no others" in found.sentence
    assert found.table["cost"].is_monotonic_increasing
    assert found.table["value"].is_monotonic_decreasing
    shown = Console(file=StringIO(), width=250)
    print_front(found, path, shown)
    assert "layers(q=" in shown.file.getvalue()
    for share in (25, 40, 70):
        problem, solution, _ = solve(done.folder, [f"{share}%"], out=path.parent / "at")
        within = found.table[found.table["cost"] <= problem.constraints[0].limit].iloc[-1]
        assert (within["cost"], within["value"]) == (solution.costs["flops"], solution.value)


def test_joint_on_demand_is_not_solved_from_what_is_stored(done, tmp_path):
    again = r"'layers' is too large.*`opsearch run --config .* --objective joint --budget 60%` does"
    with pytest.raises(RunFolderError, match=again):
        solve(done.folder, ["60%"], objective="joint", solver="local", out=tmp_path / "again")


def test_a_dry_run_knows_the_proxy_alone():
    config = RunConfig(**SETTINGS)
    plan = dry_run(config, "llava-1.5-7b", silent())
    assert list(plan.estimates) == ["additive"]
    shown = Console(file=StringIO(), width=200)
    print_dry_run(plan, config, shown)
    assert "too many policies to list" in shown.file.getvalue()


@pytest.mark.parametrize("which", ["adjacent", "40"])
def test_a_dry_run_counts_the_pairs_that_are_asked_for(which):
    settings = {**SETTINGS, "objective": "pairwise", "pairs": which}
    plan = dry_run(RunConfig(**settings), None, silent())
    single = plan.estimates["additive"].policies
    space = plan.space
    pairs = len(MeasuredPairs(which).choices(space))
    assert plan.estimates["pairwise"].policies == single + pairs
    assert plan.estimates["pairwise"].flops > plan.estimates["additive"].flops


def test_what_cannot_be_is_refused(tmp_path):
    for changes, reason in (
        ({"space": "dop", "keep": "0"}, "needs a space with a choice per operation"),
        ({"space": "operations", "tie": "q=kv"}, "take tie out of the options or run.yaml"),
        ({"solver": "grid"}, "too many to list"),
        ({"budget": ("5%",)}, "below the cheapest policy of space layers"),
    ):
        with pytest.raises(OpsearchError, match=reason):
            run(RunConfig(**{**SETTINGS, **changes}, out=tmp_path / "run"), silent())
