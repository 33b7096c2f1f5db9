"""Solving again uses what a run stored: no model, no samples, no new measurement."""

import json
import re
import shlex
import shutil
import sqlite3
import subprocess
import sys
from io import StringIO

import numpy as np
import pytest
from rich.console import Console

from opsearch import Policy, RunConfig
from opsearch.commands.run import run
from opsearch.commands.solve import solve
from opsearch.data.demo import MODEL_DIR
from opsearch.errors import InfeasibleBudgetError, OpsearchError, PolicyError, RunFolderError
from opsearch.problem.solution import Status
from tests.support.messages import naming

NEEDED = ("run.yaml", "measurements.db")


def start(folder, **settings):
    config = {"samples": 4, "heldout": 0, "n_v": (".5",), "budget": ("40%",), "out": folder}
    return run(RunConfig(**{**config, **settings}), Console(file=StringIO()))


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A copy of the embedded model that is gone once the runs are done."""
    return shutil.copytree(MODEL_DIR, tmp_path_factory.mktemp("model") / "copy")


@pytest.fixture(scope="module")
def runs(model, tmp_path_factory):
    """A run of each kind of objective; their model does not exist any more."""
    folder = tmp_path_factory.mktemp("runs")
    kinds = {
        "joint": {"objective": "joint", "complete": True},
        "additive": {"objective": "additive"},
        "lazy": {"objective": "joint", "solver": "optuna", "evaluations": 8},
    }
    for name, settings in kinds.items():
        start(folder / name, model=str(model), **settings)
    shutil.rmtree(model)
    return folder


@pytest.fixture
def copy(runs, tmp_path):
    """A function that copies what solving needs of a run into a new folder."""

    def copied(name):
        (tmp_path / name).mkdir()
        for file in NEEDED:
            shutil.copy(runs / name / file, tmp_path / name)
        return tmp_path / name

    return copied


def count(folder):
    db = sqlite3.connect(folder / "measurements.db")
    (found,) = db.execute("SELECT count(*) FROM measurement").fetchone()
    db.close()
    return found


@pytest.mark.parametrize(("name", "solver"), [("joint", "grid"), ("additive", "ortools")])
def test_another_budget_needs_no_model(copy, name, solver):
    folder = copy(name)
    before = count(folder)
    found = solve(folder, ["25%"])
    problem, solution, place = found.problem, found.solution, found.folder
    assert (place, solution.solver, solution.status) == (folder, solver, Status.OPTIMAL)
    assert solution.costs["flops"] <= problem.constraints[0].limit
    assert problem.constraints[0].limit == problem.constraints[0].stock * 25 // 100
    assert count(folder) == before
    feasible = problem.feasible
    assert solution.value == np.nanmin(problem.objective.values[feasible])
    policy = Policy.from_pretrained(folder)
    assert policy.counts == solution.policy.counts
    assert policy.provenance["budget"] == ["25%"]
    assert json.loads((folder / "solution.json").read_text())["value"] == solution.value


@pytest.mark.parametrize("name", ["joint", "additive"])
def test_the_same_budget_gives_the_policy_of_the_run(runs, copy, name):
    solution = solve(copy(name), ["40%"]).solution
    assert solution.policy.counts == Policy.from_pretrained(runs / name).counts


def test_solvers_agree_on_stored_measurements(copy):
    joint, additive = copy("joint"), copy("additive")
    pairs = [(joint, "joint", ("grid", "optuna")), (additive, "additive", ("grid", "ortools"))]
    for folder, objective, solvers in pairs:
        found = [solve(folder, ["30%"], objective, s, evaluations=10_000).solution for s in solvers]
        assert {s.status for s in found} == {Status.OPTIMAL}
        assert len({(s.policy, s.value) for s in found}) == 1


def test_the_cache_can_be_the_budget(copy):
    found = solve(copy("joint"), ["30%", "20%kv"])
    problem, solution = found.problem, found.solution
    assert [c.name for c in problem.constraints] == ["flops", "kv"]
    assert all(solution.costs[c.name] <= c.limit for c in problem.constraints)


def test_a_larger_budget_is_answered_but_not_called_optimal(copy):
    solution = solve(copy("joint"), ["60%"]).solution
    assert solution.status is Status.FEASIBLE
    assert re.search(r"\b\d+ of \d+\b.*`opsearch run --config .* --budget 60%`", solution.note)
    assert solution.bound is None


def test_a_guided_search_can_be_solved_again(copy):
    """Its run measured few points only; those are the ones to choose among."""
    folder = copy("lazy")
    for budget in ("40%", "25%"):
        found = solve(folder, [budget])
        problem, solution = found.problem, found.solution
        assert solution.costs["flops"] <= problem.constraints[0].limit
        assert solution.status is Status.FEASIBLE


def test_it_can_write_elsewhere(copy, tmp_path):
    folder = copy("joint")
    found = solve(folder, ["25%"], out=tmp_path / "other")
    solution, place = found.solution, found.folder
    assert place == tmp_path / "other"
    assert Policy.from_pretrained(place).counts == solution.policy.counts
    assert {path.name for path in folder.iterdir()} - {".lock"} == set(NEEDED)


def test_a_seed_for_the_solver_leaves_that_of_the_samples(copy):
    folder = copy("joint")
    solution = solve(folder, ["30%"], seed=7).solution
    assert solution.seed == 7
    assert RunConfig.load(folder / "run.yaml").seed == 0
    with pytest.raises(OpsearchError, match="--seed -1"):
        solve(folder, ["30%"], seed=-1)


def test_an_impossible_budget_states_the_range_and_changes_nothing(runs, copy):
    folder = copy("joint")
    shutil.copy(runs / "joint" / "policy_config.json", folder)
    before = (folder / "policy_config.json").read_text()
    with pytest.raises(InfeasibleBudgetError, match=r"\b1% .* to 100%.* --budget \d"):
        solve(folder, ["1%"])
    assert (folder / "policy_config.json").read_text() == before


@pytest.mark.parametrize("solver", [None, "grid", "ortools"])
def test_a_joint_run_can_be_solved_by_the_proxy(copy, solver):
    """Every run measures each parameter alone."""
    solution = solve(copy("joint"), ["30%"], "additive", solver).solution
    assert (solution.objective, solution.status) == ("additive", Status.OPTIMAL)


@pytest.mark.parametrize("solver", [None, "grid", "ortools"])
def test_an_objective_that_was_not_measured_is_named(copy, solver):
    """As after an interruption: a part of what the proxy is made of is there, but not all."""
    folder = copy("joint")
    with sqlite3.connect(folder / "measurements.db") as db:
        db.execute("DELETE FROM measurement WHERE policy > '8'")
    db.close()
    with pytest.raises(OpsearchError, match=r"`opsearch run --config .* --objective additive`"):
        solve(folder, ["30%"], "additive", solver)


@pytest.mark.parametrize(
    ("arguments", "values"),
    [
        ((["30%"], "joint", "ortools"), ("'ortools'", "'joint'", "--solver grid")),
        ((["30%"], "sum"), ("'sum'", "additive", "attention", "joint")),
        ((["30%"], None, "simplex"), ("'simplex'", "bisection", "greedy", "grid", "ortools")),
        ((["30"],), ("'30'", "30%")),
        ((["30%", "20%"],), ("flops", "30%, 20%")),
        ((["30%"], None, None, 0), ("--evaluations 0", 1)),
    ],
    ids=str,
)
def test_bad_requests_get_a_sentence(copy, arguments, values):
    with pytest.raises(OpsearchError, match=naming(*values)):
        solve(copy("joint"), *arguments)


def test_a_folder_without_a_run(tmp_path):
    with pytest.raises(RunFolderError, match=naming(tmp_path / "run.yaml")):
        solve(tmp_path, ["30%"])


def test_a_run_without_measurements(copy):
    folder = copy("joint")
    (folder / "measurements.db").unlink()
    with pytest.raises(RunFolderError, match=naming(folder / "measurements.db", "`opsearch run`")):
        solve(folder, ["30%"])
    assert not (folder / "measurements.db").exists()


def test_a_truncated_run_file(copy):
    folder = copy("joint")
    text = (folder / "run.yaml").read_text()
    (folder / "run.yaml").write_text(text[: text.index("n_v")])
    with pytest.raises(RunFolderError, match=naming(folder / "run.yaml", "`opsearch run`")):
        solve(folder, ["30%"])


def test_an_unwritable_place_is_refused(copy, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunFolderError, match=naming(tmp_path / "file" / "x", "--out")):
        solve(copy("joint"), ["30%"], out=tmp_path / "file" / "x")


def test_the_policy_of_a_lost_file_comes_back_from_the_run(runs, copy):
    """This is what the message about a damaged policy advises: the run's own budget by default."""
    folder = copy("joint")
    (folder / "policy_config.json").write_text("{")
    with pytest.raises(PolicyError, match="`opsearch solve RUN --replace`"):
        Policy.from_pretrained(folder)
    command = [sys.executable, "-m", "opsearch", "solve", folder, "--replace"]
    subprocess.run(command, check=True, capture_output=True)
    assert Policy.from_pretrained(folder) == Policy.from_pretrained(runs / "joint")


def test_pairs_that_a_run_did_not_measure_are_named_and_not_made_up(copy):
    with pytest.raises(RunFolderError, match=r"`opsearch run --config .* --objective pairwise`"):
        solve(copy("joint"), objective="pairwise")


@pytest.mark.parametrize("budget", ["60%", "400M prefill"])
def test_the_command_that_measures_more_can_be_pasted(copy, budget):
    """A budget may hold a space, which a shell must not split."""
    folder = copy("lazy")
    note = solve(folder, [budget], solver="grid").solution.note
    command = shlex.split(re.search("`(opsearch run [^`]*)` measures more", note)[1])
    given = dict(zip(command[2::2], command[3::2], strict=True))
    config = str(folder / "run.yaml")
    assert given == {"--config": config, "--objective": "joint", "--budget": budget}
