"""Runs over the space `stages`, which has a joint divergence and no individual ones."""

import re
from io import StringIO

import pytest
from rich.console import Console

from opsearch import RunConfig
from opsearch.commands.analyze import analyze
from opsearch.commands.dry_run import dry_run
from opsearch.commands.run import run
from opsearch.commands.solve import solve
from opsearch.errors import OpsearchError
from opsearch.problem.solution import Status
from tests.support.messages import naming

SETTINGS = {"space": "stages", "stages": 1, "n_v": ("1/4", "1/10"), "samples": 4, "heldout": 0}


def silent():
    return Console(file=StringIO(), width=200)


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    return run(RunConfig(**SETTINGS, out=tmp_path_factory.mktemp("stages") / "run"), silent())


def test_it_takes_the_joint_objective_and_proves_the_optimum(done):
    assert (done.config.objective, done.config.solver) == ("joint", "grid")
    assert done.solution.status is Status.OPTIMAL
    assert done.solution.policy.name.startswith("stages(0: ")
    assert list(done.solution.point) == ["d_1", "n_1"]
    assert len(done.problem.space.points) == 1 + 12 * 3


def test_the_report_says_why_it_has_no_individual_divergences(done):
    page = (done.folder / "report.html").read_text()
    assert "d_1, n_1" in page


def test_another_budget_is_solved_from_what_was_measured(done, tmp_path):
    found = solve(done.folder, ["25%"], out=tmp_path / "again")
    problem, solution = found.problem, found.solution
    assert solution.status is Status.OPTIMAL
    assert solution.value == problem.objective.values[problem.feasible].min()
    assert solution.value >= done.solution.value


@pytest.mark.parametrize("kind", ["rank", "curves"])
def test_analyses_of_individual_divergences_are_refused(done, kind):
    with pytest.raises(OpsearchError, match=naming("d_1, n_1")):
        analyze(kind, [done.folder])


@pytest.mark.parametrize(
    "proxy", [{"objective": "additive"}, {"objective": "pairwise"}, {"verify": 8}]
)
def test_a_proxy_is_refused_before_any_weights_are_loaded(tmp_path, proxy):
    config = RunConfig(**SETTINGS, **proxy, out=tmp_path / "run")
    with pytest.raises(OpsearchError, match=naming("d_1, n_1", "--objective joint")):
        run(config, silent())
    assert not (tmp_path / "run").exists()


def test_a_solver_of_separable_objectives_is_refused_with_those_that_fit(tmp_path):
    config = RunConfig(**SETTINGS, solver="ortools", out=tmp_path / "run")
    with pytest.raises(
        OpsearchError, match=naming("'ortools'", "'joint'", "--solver grid", "optuna")
    ):
        run(config, silent())


def test_a_guided_search_needs_no_proxy_to_start_from(tmp_path):
    settings = {**SETTINGS, "objective": "joint", "solver": "optuna", "evaluations": 5}
    settings["heldout"] = 1
    said = silent()
    result = run(RunConfig(**settings, out=tmp_path / "run"), said)
    assert result.solution.status is Status.FEASIBLE
    assert result.solution.evaluations == 5
    assert "5/6 " in said.file.getvalue()


def test_beyond_the_effort_it_is_searched_from_coarse_to_fine(tmp_path):
    settings = {**SETTINGS, "stages": 2, "effort": 0.1, "samples": 2}
    result = run(RunConfig(**settings, out=tmp_path / "run"), silent())
    assert result.config.objective == "joint"
    assert result.solution.status is Status.FEASIBLE
    assert re.search(r"\b\d+ .*\b4th\b.*\b\d+ .*\b\d+ ", result.solution.note)


@pytest.mark.parametrize(("stages", "policies"), [(1, 513), (2, 60_033)])
def test_the_dry_run_of_a_checkpoint_plans_the_joint_objective_only(stages, policies):
    config = RunConfig(space="stages", stages=stages, budget=("100%",), samples=1)
    plan = dry_run(config, "llava-1.5-7b", silent())
    assert list(plan.estimates) == ["joint"]
    assert plan.feasible == plan.estimates["joint"].policies == policies
