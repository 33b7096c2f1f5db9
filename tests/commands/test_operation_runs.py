"""Runs over a choice per operation, whose policies are too many to list."""

import json
import re
import shlex
import shutil
from io import StringIO

import pandas as pd
import pytest
from rich.console import Console

from opsearch import RunConfig
from opsearch.commands.analyze import analyze
from opsearch.commands.cli import call
from opsearch.commands.cli.printing import print_dry_run, print_front
from opsearch.commands.dry_run import dry_run
from opsearch.commands.export import measurements as run_measurements
from opsearch.commands.front import run_front
from opsearch.commands.run import run
from opsearch.commands.searched_front import searched_front
from opsearch.commands.solve import solve
from opsearch.errors import OpsearchError, RunFolderError
from opsearch.objectives.pairwise import MeasuredPairs
from opsearch.policy.counts import MLP
from opsearch.problem.solution import Status
from opsearch.report.page import save_report
from opsearch.runs.setup import parse_pairs
from tests.support.messages import naming

SETTINGS = {"space": "layers", "n_v": ("1/4",), "samples": 2, "heldout": 0, "budget": ("40%",)}


def silent():
    return Console(file=StringIO(), width=200)


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    settings = SETTINGS | {"objective": "pairwise", "keep": "0:mlp", "verify": 2}
    folder = tmp_path_factory.mktemp("layers") / "run"
    return run(RunConfig(**settings, evaluations=4, out=folder), silent())


def test_pairs_are_corrected_by_measurements(done):
    assert (done.config.objective, done.config.solver) == ("pairwise", "ortools")
    assert done.solution.objective == "joint"
    assert done.solution.status is Status.FEASIBLE
    assert done.solution.policy.name.startswith("layers(q=")
    assert done.solution.policy.resolve(100)[0, MLP] > 0
    assert done.solution.evaluations <= 4
    assert re.search(r"\binteractions .*\b\d+%", done.solution.note)
    assert done.solution.costs["flops"] <= done.problem.constraints[0].limit


def test_the_report_says_what_it_cannot_draw(done):
    page = (done.folder / "report.html").read_text()
    assert "Not drawn" not in page
    titles = re.findall("<h2>(.*?)</h2>", page)
    assert [title for title in titles if "alone" in title] == ["KL of each operation alone"]
    assert not any("Proxy" in title or "family" in title for title in titles)
    assert f"<code>opsearch front {done.folder}</code>" in page
    assert not (done.folder / "front.csv").exists()


def test_each_operation_alone_is_analyzed_from_what_is_stored(done):
    found, files = analyze("operations", [done.folder])
    assert all(file.exists() for file in files)
    rows = found.tables["operations.csv"]
    assert len(rows) == 3 * 12 - 2 - 1  # the last layer's q and mlp, and the kept MLP
    stored = run_measurements(done.folder).groupby("pruned")["kl"].mean()
    for row in rows.to_dict("records"):
        assert row["kl"] == pytest.approx(stored[f"{row['module']}{row['layer']}=0"])
    for kind in ("rank", "curves", "interactions", "rivals"):
        with pytest.raises(OpsearchError, match=naming("'layers'", "`opsearch analyze operations")):
            analyze(kind, [done.folder])


def test_export_names_the_operations_that_a_policy_prunes(done, tmp_path):
    call(["export", str(done.folder), "--out", str(tmp_path / "all.csv")])
    rows = pd.read_csv(tmp_path / "all.csv", keep_default_na=False)
    named = rows[rows["pruned"] != ""]
    space, n_visual = done.problem.space, int(rows["n_visual"].iloc[0])
    names = {parameter.name: k for k, parameter in enumerate(space.parameters)}
    for pruned, policy in set(zip(named["pruned"], named["policy"], strict=True)):
        point = [len(parameter.values) - 1 for parameter in space.parameters]
        for part in pruned.split():
            name, _, value = part.partition("=")
            values = [str(each) for each in space.parameters[names[name]].values]
            point[names[name]] = values.index(value)
        assert space.decode(point).canonical(n_visual) == policy
    pairs = named["pruned"].map(lambda text: len(text.split()))
    assert set(pairs) == {1, 2}
    # The answer prunes more than two operations.
    answer = done.policy.canonical(n_visual)
    assert set(rows[rows["policy"] == answer]["pruned"]) == {""}


def test_a_front_that_was_computed_is_drawn(done, tmp_path):
    copied = tmp_path / "run"
    shutil.copytree(done.folder, copied)
    run_front(copied)
    page = save_report(copied).read_text()
    assert 'id="front-' in page
    assert "measured policy has" not in page


def test_shares_that_were_measured_together_have_no_section(tmp_path):
    made = RunConfig(space="shares", samples=2, heldout=0, budget=("40%",), effort=4)
    found = run(made.changed(out=tmp_path / "run"), silent())
    page = (found.folder / "report.html").read_text()
    assert "Not drawn" not in page
    assert "alone" not in "".join(re.findall("<h2>(.*?)</h2>", page))


def test_it_is_solved_again_from_what_is_stored(done, tmp_path):
    found = solve(done.folder, budget=["60%"], out=tmp_path / "again")
    problem, solution = found.problem, found.solution
    assert solution.status is Status.OPTIMAL
    assert solution.objective == "pairwise"
    again = f"`opsearch solve {done.folder} .*--budget 60% --verify 2`"
    assert re.search(again, solution.note)
    assert RunConfig.load(tmp_path / "again" / "run.yaml").verify == 2, "a later run verifies"
    assert solution.costs["flops"] <= problem.constraints[0].limit


def test_the_proxy_is_the_default_and_proves_its_optimum(tmp_path):
    result = run(RunConfig(**SETTINGS, out=tmp_path / "run"), silent())
    assert (result.config.objective, result.config.solver) == ("additive", "ortools")
    assert result.solution.status is Status.OPTIMAL


def test_the_front_is_walked_and_no_budget_has_a_better_policy(done):
    found, path = run_front(done.folder)
    assert found.table["proved"].all()
    assert re.search(naming(len(found.table), "proved"), found.sentence)
    assert found.table["cost"].is_monotonic_increasing
    assert found.table["value"].is_monotonic_decreasing
    shown = Console(file=StringIO(), width=250)
    print_front(found, path, shown)
    assert "layers(q=" in shown.file.getvalue()
    for share in (25, 40, 70):
        solved = solve(done.folder, [f"{share}%"], out=path.parent / "at")
        problem, solution = solved.problem, solved.solution
        within = found.table[found.table["cost"] <= problem.constraints[0].limit].iloc[-1]
        assert (within["cost"], within["value"]) == (solution.costs["flops"], solution.value)


def test_joint_on_demand_is_not_solved_from_what_is_stored(done, tmp_path):
    again = r"'layers'.*`opsearch run --config .* --objective joint --budget 60%`"
    with pytest.raises(RunFolderError, match=again):
        solve(done.folder, ["60%"], objective="joint", solver="local", out=tmp_path / "again")


@pytest.mark.parametrize("solver", [None, "threshold", "local"])
def test_what_a_run_can_be_solved_with_is_named(done, tmp_path, solver):
    """What the message names is then solved."""
    options = ["--out", str(tmp_path / "x")]
    named = naming("`opsearch run", "--objective joint", "--objective additive")
    with pytest.raises(RunFolderError, match=named):
        solve(done.folder, objective="joint", solver=solver, out=tmp_path / "x")
    chosen = [] if solver != "threshold" else ["--solver", solver]
    call(["solve", str(done.folder), "--objective", "additive", *chosen, *options])


def test_a_dry_run_knows_the_proxy_alone():
    config = RunConfig(**SETTINGS)
    plan = dry_run(config, "llava-1.5-7b", silent())
    assert list(plan.estimates) == ["additive"]
    shown = Console(file=StringIO(), width=200)
    print_dry_run(plan, shown)
    line = next(line for line in shown.file.getvalue().splitlines() if "space layers" in line)
    assert not re.search(r"\d policies", line)


@pytest.mark.parametrize("which", ["adjacent", "40"])
def test_a_dry_run_counts_the_pairs_that_are_asked_for(which):
    settings = {**SETTINGS, "objective": "pairwise", "pairs": which}
    plan = dry_run(RunConfig(**settings), None, silent())
    single = plan.estimates["additive"].policies
    space = plan.space
    pairs = len(MeasuredPairs(parse_pairs(which)).choices(space))
    assert plan.estimates["pairwise"].policies == single + pairs
    assert plan.estimates["pairwise"].flops > plan.estimates["additive"].flops


def test_finer_groups_are_searched_solved_and_shown(tmp_path):
    """A run, what is solved again from it, its fronts, page and comparison have its groups."""
    settings = SETTINGS | {"space": "operations", "groups": "1/8,1/2,1"}
    result = run(RunConfig(**settings, objective="additive", out=tmp_path / "run"), silent())
    named = naming("operations(", "groups=1/8,1/2,1")
    assert re.search(named, result.solution.policy.name)
    assert {*result.solution.policy.resolve(80).ravel().tolist()} <= {0, 10, 40, 80}
    again = solve(result.folder, budget=["60%"], out=tmp_path / "again")
    assert again.solution.status is Status.OPTIMAL
    assert re.search(named, again.solution.policy.name)
    found, _ = run_front(result.folder)
    assert found.table["policy"].str.contains(named).all()
    within = found.table[found.table["cost"] <= again.problem.constraints[0].limit].iloc[-1]
    assert within["value"] == again.solution.value
    searched, _ = searched_front(result.folder, 8, console=silent())
    assert searched.table["policy"].str.contains(named).all()
    assert "groups=1/8,1/2,1" in (result.folder / "report.html").read_text()


def test_a_dry_run_counts_the_choices_of_each_operation():
    def singles(groups):
        config = RunConfig(space="operations", groups=groups)
        return dry_run(config, "llava-1.5-7b", silent()).estimates["additive"].policies

    assert singles(None) == singles("1/4,1") == 94 * 3 + 1
    assert singles("1/8,1/4,1/2,1") == 94 * 5 + 1


SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("greedy", "optuna")]


@pytest.mark.parametrize("solver", ["local", *SLOW])
def test_finer_groups_are_searched_on_demand(solver, tmp_path):
    settings = SETTINGS | {"space": "operations", "groups": "1/8,1/2,1", "keep": "0:mlp"}
    limited = {"objective": "joint", "solver": solver, "evaluations": 30}
    result = run(RunConfig(**settings, **limited, out=tmp_path / "run"), silent())
    counts = result.solution.policy.resolve(80)
    assert {*counts.ravel().tolist()} <= {0, 10, 40, 80}
    assert counts[0, MLP] == 80
    assert result.solution.costs["flops"] <= result.problem.constraints[0].limit


def test_what_cannot_be_is_refused(tmp_path):
    for changes, reason in (
        ({"space": "dop", "keep": "0"}, ("--keep 0", "'dop'", "--space layers", "run.yaml")),
        ({"groups": "1/8,1"}, ("--groups 1/8,1", "'layers'", "--space operations", "run.yaml")),
        ({"space": "operations", "tie": "q=kv"}, ("--tie q=kv", "--space layers", "run.yaml")),
        ({"solver": "grid"}, ("'layers'", "--solver ortools", "local")),
        ({"budget": ("5%",)}, ("5%", "layers", "--budget")),
    ):
        with pytest.raises(OpsearchError, match=naming(*reason)):
            run(RunConfig(**{**SETTINGS, **changes}, out=tmp_path / "run"), silent())


@pytest.mark.slow
def test_what_is_proved_of_a_proxy_is_not_called_the_optimum(tmp_path, capsys):
    line = ["run", "--space=layers", "--objective=additive", "--samples=8", "--heldout=0"]
    folder = tmp_path / "run"
    assert call([*line, "--budget=15%", f"--out={folder}"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    record = json.loads((folder / "solution.json").read_text())
    assert (record["status"], record["ended"]) == ("optimal", "optimal for the proxy")
    assert re.search(naming("optimal for the proxy", "additive"), said)
    measured = pd.read_csv(folder / "comparison.csv", index_col=0).loc["KL calibration", "opsearch"]
    assert measured > 2 * record["value"], "this proxy is known to be off here"
    again = f"opsearch run --config {folder}/run.yaml --verify 8"
    assert again in said
    page = (folder / "report.html").read_text()
    assert "Optimal for the proxy." in page
    assert "status-optimal&#34;" not in page
    assert 'status-optimal"' not in page
    assert call(shlex.split(again)[1:]) == 0
    (verified,) = (folder / "answers").glob("*/solution.json")
    verified = json.loads(verified.read_text())
    assert verified["value"] < measured
