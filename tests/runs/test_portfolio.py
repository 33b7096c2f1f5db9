"""The default search on the embedded model: no baseline is better, and what a run leaves."""

import json
import os
import shutil
import signal
from fractions import Fraction
from io import StringIO

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from opsearch import Policy, RunConfig
from opsearch.commands.cli import call
from opsearch.commands.run import run
from opsearch.costs import COSTS
from opsearch.costs.base import SampleSize
from opsearch.costs.shape import Shape
from opsearch.models.loading import load_weights
from opsearch.policy import builders
from opsearch.policy.counts import MODULES
from opsearch.problem.budget import Budget, constraint, total_cost
from opsearch.problem.objective import Blackbox
from opsearch.problem.problem import Problem
from opsearch.problem.spaces.operations import shares_space
from opsearch.runs import relaxed
from opsearch.runs.portfolio import _OnePolicy
from opsearch.runs.relaxed import budget_of_shares, nearest_point, seen_samples
from opsearch.solvers.relaxed import RelaxedDescent
from tests.measure.demo import TOLERANCE, reference_kl, samples
from tests.support.messages import naming

SHAPE = Shape.from_config(load_weights("demo").config)
FLOPS, KV = COSTS["flops"](SHAPE), COSTS["kv"](SHAPE)
KL = "KL calibration"


def start(folder, steps, **given):
    """Run with a descent of a few steps; return the result and what was said."""
    said = StringIO()
    few = {"space": "shares", "samples": 6, "heldout": 2, "out": folder}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(relaxed, "_STEPS", (steps, steps))
        patch.setattr(relaxed, "_BATCH", (2, 2))
        result = run(RunConfig(**{**few, **given}), Console(file=said, width=200))
    return result, said.getvalue()


@pytest.fixture(scope="module")
def descended(tmp_path_factory):
    """A run whose answer the descent found."""
    return start(tmp_path_factory.mktemp("portfolio") / "run", 30, budget=("30%",))


@pytest.fixture(scope="module")
def beaten(tmp_path_factory):
    """A run whose descent is so short that a baseline wins."""
    return start(tmp_path_factory.mktemp("portfolio") / "run", 1, budget=("60%", "50%kv"), seed=1)


def check_law(result):
    """Compare the answer with all baselines of the final table, all of which are within budget."""
    row = result.comparison.loc[KL].drop("original")
    assert len(row) >= 5
    assert row["opsearch"] <= row.min()
    assert row["opsearch"] == pytest.approx(result.value, abs=1e-6)
    for limit in result.problem.constraints:
        assert result.solution.costs[limit.name] <= limit.limit


def test_no_baseline_of_the_table_is_better(descended, beaten):
    for result, _ in (descended, beaten):
        check_law(result)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("budget", [("15%",), ("50%",), ("40%kv",), ("30%", "30%kv")], ids=str)
def test_nor_is_one_at_other_budgets(budget, seed, tmp_path):
    check_law(start(tmp_path, 1 + 9 * seed, budget=budget, seed=seed)[0])


def test_the_descent_wins_where_it_has_steps(descended):
    result, said = descended
    assert "gradient descent on token shares" in result.solution.note
    assert result.problem.space.name == "shares"
    assert result.comparison.loc["evaluations", "opsearch"] == result.solution.evaluations > 8
    mean = np.mean([reference_kl(sample, result.policy) for sample in samples(6)])
    assert result.value == pytest.approx(mean, abs=TOLERANCE)
    pairs = [sample.shape for sample in samples(6)]
    assert result.solution.costs == {"flops": total_cost(FLOPS, result.policy, pairs)}
    assert "7/7" in said
    assert "8/7" not in said


def test_a_baseline_that_wins_is_the_answer_by_its_name(beaten):
    result, _ = beaten
    row = result.comparison.loc[KL].drop(["original", "opsearch"])
    name = row.idxmin()
    assert f"found by {name};" in result.solution.note
    assert row[name] == result.comparison.loc[KL, "opsearch"]
    pairs = [sample.shape for sample in samples(6, seed=1)]
    policy = Policy.from_pretrained(result.folder)
    assert policy.counts == result.policy.counts
    costs = {"flops": total_cost(FLOPS, policy, pairs), "kv": total_cost(KV, policy, pairs)}
    assert result.solution.costs == costs
    record = json.loads((result.folder / "solution.json").read_text())
    assert record["note"] == result.solution.note
    assert record["solver"] == "gradient"
    assert name in (result.folder / "report.html").read_text()


def test_a_policy_that_no_space_of_operations_has_is_stated_exactly():
    """A baseline of another package may rank inside the decoder or count in tokens."""
    for policy in (
        builders.fastv(SHAPE.layers, 2, Fraction(1, 2)),
        Policy(((Fraction(7), Fraction(9), Fraction(0)),) * SHAPE.layers, unit="tokens"),
    ):
        space = _OnePolicy(policy)
        pairs = [(100, 20), (60, 30)]
        limit = constraint(Budget.parse("90%"), FLOPS, space, pairs)
        assert limit.cost(0) == total_cost(FLOPS, policy, pairs)
        assert space.decode(space.row(0)) == policy


def test_the_same_run_again_gives_the_same_also_from_its_settings(beaten, tmp_path):
    result, _ = beaten
    config = RunConfig.load(result.folder / "run.yaml")
    given = {**config.model_dump(), "out": tmp_path / "new"}
    fresh, _ = start(tmp_path / "new", 1, **given)
    shutil.copytree(result.folder, tmp_path / "again")
    again, _ = start(tmp_path / "again", 1, **{**given, "out": tmp_path / "again"})
    for other in (fresh, again):
        assert other.policy == result.policy
        assert other.value == result.value


@pytest.mark.usefixtures("ctrl_c")
def test_ctrl_c_in_the_descent_keeps_what_it_found_and_the_run_goes_on_there(tmp_path):
    given = {"samples": 4, "heldout": 0}
    steps, counted = RelaxedDescent.run, []

    def interrupted(self, *arguments):
        for state in steps(self, *arguments):
            if state.step == 3:
                os.kill(os.getpid(), signal.SIGINT)
            yield state

    def counting(self, *arguments):
        for state in steps(self, *arguments):
            counted.append(state.step)
            yield state

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RelaxedDescent, "run", interrupted)
        result, _ = start(tmp_path / "run", 8, **given)
    assert result.solution.stopped
    assert "stopped with 5 of its steps left" in result.solution.note
    check_law(result)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RelaxedDescent, "run", counting)
        resumed, _ = start(tmp_path / "run", 8, **given)
        assert counted == list(range(4, 9))
        counted.clear()
        assert start(tmp_path / "run", 8, **given)[0].policy == resumed.policy
        assert counted == []  # it was finished
        start(tmp_path / "run", 8, **given, budget=("40%",))
        assert counted == list(range(1, 9))  # another search
    assert not resumed.solution.stopped
    whole, _ = start(tmp_path / "whole", 8, **given)
    assert resumed.policy == whole.policy


# Rounding to points


@settings(max_examples=25)
@given(
    st.lists(st.floats(0, 1), min_size=9, max_size=9),
    st.sampled_from([("60%",), ("45%",), ("70%kv",), ("75%", "60%kv")]),
    st.booleans(),
)
def test_the_nearest_point_is_within_the_budgets_and_near(values, budgets, kept):
    layers, pairs = 3, [(100, 20), (60, 30)]
    shape = Shape.from_config(load_weights("demo").config)
    shape = type(shape)(**{**vars(shape), "layers": layers})
    keep = [(0, 1)] if kept else []
    space = shares_space(layers, kept=keep)
    costs = {"flops": COSTS["flops"](shape), "kv": COSTS["kv"](shape)}
    parsed = [Budget.parse(text) for text in budgets]
    limits = tuple(constraint(each, costs[each.cost], space, pairs) for each in parsed)
    problem = Problem(space, Blackbox("joint", "nats", lambda rows: np.zeros(len(rows))), limits)
    shares = np.array(values).reshape(layers, len(MODULES))
    given_costs = [(costs[c.name], c.limit / c.stock) for c in limits]
    budget = budget_of_shares(given_costs, layers, SampleSize(80, 25), keep)
    near = budget.nearest(shares)
    assert budget.spent(near).max() <= 1
    for each in (shares, near):
        assert problem.within(nearest_point(problem, each))
    row = space.row(nearest_point(problem, near))
    found = [
        space.levels[i + space.lowest(*at)]
        for i, at in zip(row[:-1], space.operations, strict=True)
    ]
    for layer in range(layers - 1):  # no layer reads more of a state than later keys
        near[layer, [0, 2]] = np.minimum(near[layer, [0, 2]], near[layer + 1 :, 1].max())
    wanted = [near[at] for at in space.operations]
    assert np.abs(np.array(found, float) - wanted).max() <= 3 / 32


def test_a_quarter_of_many_samples_is_kept_from_the_descent():
    assert [seen_samples(count) for count in (1, 31, 32, 1024)] == [1, 31, 24, 768]


# Commands on such a run, and settings that do not go with it


def said(capsys, *arguments):
    """Return the exit code of a command and all that it printed, on one line."""
    capsys.readouterr()
    code = call([str(argument) for argument in arguments])
    text = " ".join(" ".join(capsys.readouterr()).split())
    assert "Traceback" not in text
    assert "--debug" not in text  # the advice on a defect
    return code, text


def test_commands_on_the_run_work(descended, capsys, tmp_path):
    folder = descended[0].folder
    assert said(capsys, "show", folder)[0] == 0
    assert said(capsys, "analyze", "outcomes", folder, "--out", tmp_path)[0] == 0
    code, text = said(capsys, "run", "--dry-run", "--config", folder / "run.yaml")
    assert code == 0
    assert "steps of 6 samples" in text
    code, text = said(capsys, "run", "--dry-run", "--config", folder / "run.yaml", "--space=depth")
    assert code == 0
    assert "space depth" in text


@pytest.mark.parametrize(
    ("command", "parts"),
    [
        (["solve"], ("'shares'", "`opsearch run --config")),
        (["solve", "--objective=additive"], ("'shares'", "--space operations")),
        (["front"], ("'shares'", "--solver gradient")),
        (["front", "--measure=20"], ("shares", "layers or operations")),
        (["analyze", "curves"], ("'shares'", "--solver gradient")),
        (["analyze", "rank"], ("'shares'", "--solver gradient")),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_such_a_run_cannot_give_is_said_at_once(descended, command, parts, capsys):
    name, *options = command
    kinds = [options.pop(0)] if name == "analyze" else []
    code, text = said(capsys, name, *kinds, descended[0].folder, *options)
    assert code == 1
    assert np.all([part in text for part in parts]), text


WRONG = [
    (["--solver=ortools"], ("'additive'", "'shares'", "--solver gradient")),
    (["--solver=local"], ("'local'", "'shares'", "--solver gradient")),
    (["--solver=grid"], ("'shares'", "--solver gradient")),
    (["--objective=additive"], ("'additive'", "--space operations")),
    (["--verify=8"], ("'additive'", "--space operations")),
    (["--ranker=uniform"], ("uniform", "--space operations --groups 1/4,1")),
    (["--ranker=fastv"], ("fastv", "--space stages")),
    (["--space=dop", "--solver=gradient"], ("'dop'", "--space shares")),
]


@pytest.mark.parametrize(("options", "parts"), WRONG, ids=lambda value: "_".join(value))
def test_settings_that_do_not_go_with_shares_are_refused(options, parts, capsys, tmp_path):
    few = ["--samples=2", "--heldout=0", "--out", tmp_path]
    space = [] if "--space=dop" in options else ["--space=shares"]
    code, text = said(capsys, "run", "--dry-run", *few, *space, *options)
    assert code == 1
    assert np.all([part in text for part in parts]), text


def test_too_short_an_effort_says_what_it_needs_before_anything_is_loaded(capsys, tmp_path):
    code, text = said(capsys, "run", "--dry-run", "--shape=llava-next-7b", "--effort=1")
    assert code == 1
    needed = text.split("give --effort ")[1].split(",")[0]
    assert int(needed) > 1
    short = ["--effort=.001", "--samples=2", "--heldout=0"]
    code, text = said(capsys, "run", *short, "--out", tmp_path / "run")
    assert code == 1
    assert "too short" in text
    assert "loading" not in text
    code, text = said(capsys, "run", "--dry-run", "--shape=llava-next-7b", f"--effort={needed}")
    assert code == 0
    assert "40 steps of 8 samples" in text
    assert said(capsys, "run", "--dry-run", "--shape=llava-next-7b")[0] == 0


def test_a_model_without_gradients_is_refused_with_the_next_step(tmp_path, monkeypatch):
    from transformers.models.llama.modeling_llama import LlamaMLP

    forward = LlamaMLP.forward

    def undifferentiable(self, rows):
        if rows.requires_grad:
            raise NotImplementedError("int8_mm has no derivative")
        return forward(self, rows)

    monkeypatch.setattr(LlamaMLP, "forward", undifferentiable)
    with pytest.raises(Exception, match=naming("int8_mm", "--space operations --verify 8")):
        start(tmp_path / "run", 1, samples=2, heldout=0)
