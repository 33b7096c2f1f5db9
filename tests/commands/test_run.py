"""A run end to end on the embedded model: what it leaves, what it keeps within, how it resumes."""

import json
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from dataclasses import replace
from fractions import Fraction
from io import StringIO

import numpy as np
import pandas as pd
import pytest
import torch
from rich.console import Console

from opsearch import Policy, RunConfig
from opsearch.commands.cli.printing import print_run
from opsearch.commands.run import run
from opsearch.costs import COSTS
from opsearch.costs.shape import Shape
from opsearch.data.demo import MODEL_DIR
from opsearch.data.embedded import embedded
from opsearch.errors import InfeasibleBudgetError, OpsearchError, RunFolderError
from opsearch.measure.storage.store import Store
from opsearch.measure.sweep import passes
from opsearch.models.loading import load_weights
from opsearch.objectives.joint import Joint
from opsearch.policy import builders
from opsearch.problem.budget import total_cost
from opsearch.problem.objective import KL_QUANTUM
from opsearch.problem.solution import Status
from opsearch.report.verdict import cell
from opsearch.runs.samples import run_items
from tests.measure.demo import LAYERS, TOLERANCE, reference_kl, samples
from tests.support.messages import naming

FILES = {
    "run.yaml",
    "measurements.db",
    "solution.json",
    "policy_config.json",
    "policy.svg",
    "front.csv",
    "front.svg",
    "comparison.csv",
    "environment.json",
    "report.html",
}
SMALL = {"samples": 4, "heldout": 15, "n_v": (".5",)}
SHAPE = Shape.from_config(load_weights("demo").config)


def start(folder, **settings):
    """Run with few samples and return the result with what it said meanwhile."""
    said = StringIO()
    config = RunConfig(**{**SMALL, "out": folder, **settings})
    return run(config, Console(file=said, width=200)), said.getvalue()


def stored(folder):
    """All stored divergences by (policy, item)."""
    with sqlite3.connect(folder / "measurements.db") as db:
        rows = db.execute("SELECT policy, item, kl FROM measurement").fetchall()
    db.close()
    return {(policy, item): kl for policy, item, kl in rows}


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """A finished run with the default objective and solver."""
    return start(tmp_path_factory.mktemp("run") / "small")


@pytest.fixture(scope="module")
def additive(tmp_path_factory):
    """A finished run of the additive proxy over the space of depths."""
    folder = tmp_path_factory.mktemp("run") / "additive"
    return start(folder, objective="additive", space="depth", budget=("30%", "60%kv"), seed=2)


# Files of a run


def test_a_run_leaves_all_its_files(done):
    result, said = done
    assert {path.name for path in result.folder.iterdir()} - {".lock"} == FILES
    numbers = [int(number) for number in re.findall(r"^(\d)/7 .*: [\d.]+ s$", said, re.MULTILINE)]
    assert numbers == list(range(1, 8))
    assert re.search(r"\bobjective joint\b.* \d+ s\b.*--effort \d+", said)


def test_the_settings_are_completed_and_load_again(done):
    result, _ = done
    assert (result.config.objective, result.config.solver) == ("joint", "grid")
    assert RunConfig.load(result.folder / "run.yaml") == result.config


def test_the_same_run_again_gives_the_same_and_measures_nothing(done, tmp_path):
    result, _ = done
    shutil.copytree(result.folder, tmp_path / "again")
    before = stored(result.folder)
    config = RunConfig.load(result.folder / "run.yaml").model_copy(
        update={"out": tmp_path / "again"}
    )
    again = run(config, Console(file=StringIO()))
    assert stored(tmp_path / "again") == before
    assert again.solution.policy == result.solution.policy
    assert again.solution.value == result.solution.value
    pd.testing.assert_frame_equal(again.comparison, result.comparison)
    for name in ("policy_config.json", "front.csv", "comparison.csv"):
        assert (tmp_path / "again" / name).read_text() == (result.folder / name).read_text()


def test_the_policy_file_is_the_solution_and_says_where_it_comes_from(done):
    result, _ = done
    policy = Policy.from_pretrained(result.folder)
    assert policy.counts == result.solution.policy.counts
    assert policy.model_type == "llava"
    assert policy.rankers[0][1].name == "cls"
    facts = {"budget": ["30%"], "objective": "joint", "solver": "grid", "samples": 4, "seed": 0}
    assert facts.items() <= dict(policy.provenance).items()


def test_the_record_of_the_solve_is_complete(done):
    result, _ = done
    record = json.loads((result.folder / "solution.json").read_text())
    assert record["status"] == "optimal"
    assert record["sentence"] == Status.OPTIMAL.sentence
    assert record["value"] == record["bound"] == result.solution.value
    assert record["costs"] == result.solution.costs
    assert record["versions"]["numpy"] == np.__version__
    assert (record["model"], record["space"], record["gap"]) == ("demo", "dop", 0)


# Printed numbers


def test_value_and_cost_agree_with_an_independent_computation(done):
    result, _ = done
    policy, wanted = result.solution.policy, samples(4)
    mean = np.mean([reference_kl(sample, policy) for sample in wanted])
    assert result.solution.value == pytest.approx(mean, abs=TOLERANCE)
    pairs = [sample.shape for sample in wanted]
    flops = COSTS["flops"](SHAPE)
    assert result.solution.costs == {"flops": total_cost(flops, policy, pairs)}
    stock = total_cost(flops, builders.identity(LAYERS), pairs)
    assert result.solution.costs["flops"] <= stock * Fraction(30, 100)


def test_no_other_policy_of_the_space_is_better(done):
    result, _ = done
    problem = result.problem
    values = problem.objective.values
    known = np.where(np.isnan(values), problem.objective.lower, values)
    assert np.array_equal(np.isnan(known), ~problem.feasible)
    assert result.solution.value == np.nanmin(values) == np.nanmin(known)
    assert result.solution.status is Status.OPTIMAL


@pytest.mark.parametrize("which", ["done", "additive"])
def test_every_method_of_the_table_keeps_within_the_budget(which, request):
    result, _ = request.getfixturevalue(which)
    (flops, *others) = result.problem.constraints
    table = result.comparison
    totals = table.loc["FLOPs, mean"] * flops.samples
    assert np.array_equal(totals, np.rint(totals))
    assert totals["original"] == flops.stock
    assert (totals.drop("original") <= flops.limit).all()
    assert totals["opsearch"] == result.solution.costs["flops"]
    for other in others:
        assert result.solution.costs[other.name] <= other.limit
        assert other.name == "kv"
        means = table.loc["KV bytes, mean"]
        assert means["opsearch"] * other.samples == result.solution.costs["kv"]
        share = means["opsearch"] / means["original"]
        assert table.loc["KV, %", "opsearch"] == pytest.approx(100 * share)
    assert {"tokens cls", "tokens uniform", "tokens random", "VTW"} <= set(table.columns)


def test_a_narrow_terminal_loses_no_method(done):
    result, _ = done
    shown = StringIO()
    print_run(result, Console(file=shown, width=50))
    lines, table = shown.getvalue().splitlines(), result.comparison
    words = " ".join(line for line in lines if len(line) <= 50).split()
    for method in table.columns:
        assert set(method.split()) <= set(words)
    for row in table.index:
        parts = [line for line in lines if line.startswith(f"{row} ")]
        assert max(map(len, parts)) <= 50
        found = " ".join(line.removeprefix(row) for line in parts)
        cells = [cell(row, table.loc[row, method]) for method in table.columns]
        assert found.split() == " ".join(cells).split()


def test_the_table_shows_what_was_measured(done):
    result, _ = done
    table, policy = result.comparison, result.solution.policy
    assert (table["original"].loc[["KL calibration", "KL held-out"]] == 0).all()
    assert table["original"]["Rel. Avg., %"] == table["original"]["% of stock"] == 100
    assert table["opsearch"]["KL calibration"] == pytest.approx(result.solution.value, abs=1e-6)
    heldout = samples(15, "held-out")
    mean = np.mean([reference_kl(sample, policy) for sample in heldout])
    assert table["opsearch"]["KL held-out"] == pytest.approx(mean, abs=TOLERANCE)
    families = [item.family for item in embedded("held-out", 15)]
    assert table.index.tolist()[-15:] == [f"  {family}" for family in families]
    csv = pd.read_csv(result.folder / "comparison.csv", index_col=0)
    pd.testing.assert_frame_equal(csv, table, check_exact=False)


def test_the_front_holds_the_solution(done):
    result, _ = done
    front = pd.read_csv(result.folder / "front.csv")
    best = front[front["flops_per_sample"] * 4 <= result.problem.constraints[0].limit].iloc[-1]
    assert best["value"] == result.solution.value
    named = {name: str(best[name]) for name in result.solution.point}
    assert named == result.solution.point
    with_vision = result.comparison["opsearch"]["+ vision, %"]
    assert 100 * best["share_with_vision"] == pytest.approx(with_vision)
    assert best["share"] < best["share_with_vision"] < 1


def test_a_depth_run_reports_like_any_other(additive):
    result, _ = additive
    assert {path.name for path in result.folder.iterdir()} - {".lock"} == FILES
    assert set(result.solution.point) == {"d_q", "d_kv", "d_mlp", "n_v"}
    assert set(result.solution.costs) == {"flops", "kv"}
    assert (result.config.solver, result.solution.status) == ("ortools", Status.OPTIMAL)
    assert result.comparison["opsearch"].notna().all()


def test_solvers_agree_on_what_was_measured(done, additive, tmp_path):
    """The same objective in the same folder: nothing is measured but what TPE's proxy needs."""
    for name, (result, _), solvers in (
        ("joint", done, ("grid", "optuna")),
        ("additive", additive, ("grid", "ortools")),
    ):
        folder = tmp_path / name
        shutil.copytree(result.folder, folder)
        for solver in solvers:
            settings = {"solver": solver, "out": folder, "evaluations": 10_000, "heldout": 0}
            other = run(result.config.model_copy(update=settings), Console(file=StringIO()))
            assert other.solution.policy == result.solution.policy, (name, solver)
            assert other.solution.value == result.solution.value, (name, solver)
            assert other.solution.status is Status.OPTIMAL


def test_a_guided_search_measures_only_what_it_asks(tmp_path):
    result, _ = start(
        tmp_path / "tpe", solver="optuna", objective="joint", evaluations=6, heldout=0
    )
    assert (result.solution.evaluations, result.solution.status) == (6, Status.FEASIBLE)
    measured = len({policy for policy, _ in stored(result.folder)})
    proxy = 2 * (LAYERS + 1) + 2 - 3  # its values, without those that prune nothing
    assert measured <= 6 + proxy + 6  # and the rows of the final table
    assert result.problem.constraints[0].limit >= result.solution.costs["flops"]


def test_a_budget_on_the_cache_alone(tmp_path):
    result, _ = start(tmp_path / "kv", budget=("30%kv",), heldout=0)
    pairs = [sample.shape for sample in samples(4)]
    assert result.solution.costs == {
        "kv": total_cost(COSTS["kv"](SHAPE), result.solution.policy, pairs)
    }
    stock = COSTS["kv"](SHAPE)
    assert result.solution.costs["kv"] <= 0.3 * sum(stock.stock(*pair) for pair in pairs)


def test_another_seed_draws_other_samples(done, additive):
    (first, _), (second, _) = done, additive
    with (
        Store(first.folder / "measurements.db") as a,
        Store(second.folder / "measurements.db") as b,
    ):
        names = [sample.name for sample in a.samples("calibration")]
        others = [sample.name for sample in b.samples("calibration")]
    assert names == [f"embedded/calibration/0/{i}" for i in range(4)]
    assert others == [f"embedded/calibration/2/{i}" for i in range(4)]


def test_memory_that_runs_out_is_said_and_changes_nothing(tmp_path, monkeypatch):
    settings = {"heldout": 0, "objective": "additive", "memory": "40MB"}
    whole, _ = start(tmp_path / "whole", **settings)
    failures = iter([torch.OutOfMemoryError("the device is full")])

    def full_once(*arguments):
        for failure in failures:
            raise failure
        return sweep(*arguments)

    sweep = passes.sweep
    monkeypatch.setattr(passes, "sweep", full_once)
    halved, said = start(tmp_path / "halved", **settings)
    assert said.count("--memory") == 1
    assert re.search(naming("--memory", "40 MB"), said)
    assert halved.solution.policy == whole.solution.policy
    assert halved.solution.value == pytest.approx(whole.solution.value, abs=5 * KL_QUANTUM)


# Data of one's own


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """A folder with pictures and the records that name them."""
    folder = tmp_path_factory.mktemp("data")
    records = []
    for i, item in enumerate(embedded("train", 12)):
        item.images[0].save(folder / f"{i}.png")
        record = {"image": f"{i}.png", "question": item.question, "answer": item.answers[0]}
        records.append({**record, "family": item.family})
    return folder, records


def write(folder, name, records):
    path = folder / name
    path.write_text("\n".join(map(json.dumps, records)))
    return path


def test_a_file_is_cut_into_calibration_and_held_out(pictures, tmp_path):
    data = write(*pictures[:1], "items.jsonl", pictures[1])
    result, _ = start(tmp_path / "own", data=data, samples=5, budget=("40%",))
    with Store(result.folder / "measurements.db") as store:
        calibration = {sample.item for sample in store.samples("calibration")}
        heldout = {sample.item for sample in store.samples("held-out")}
    assert (len(calibration), len(heldout), calibration & heldout) == (5, 7, set())
    assert "accuracy, %" in result.comparison.index
    assert RunConfig.load(result.folder / "run.yaml").data == data


@pytest.mark.parametrize("samples", [1, 3, 11, 12, 50])
def test_splits_of_a_file_never_overlap(pictures, samples):
    folder, records = pictures
    twice = [record | {"id": f"{copy}{i}"} for copy in "ab" for i, record in enumerate(records)]
    data = write(folder, "twice.jsonl", twice)
    drawn = run_items(RunConfig(data=data, samples=samples))
    assert not {i.digest() for i in drawn.calibration} & {i.digest() for i in drawn.heldout}


def test_splits_of_the_embedded_tasks_never_overlap():
    drawn = run_items(RunConfig(samples=200, heldout=200, seed=5))
    assert not {i.digest() for i in drawn.calibration} & {i.digest() for i in drawn.heldout}


@pytest.mark.parametrize("unknown", [slice(None), slice(1, None)], ids=["all", "some"])
def test_without_answers_there_is_no_accuracy_but_a_run(pictures, tmp_path, unknown):
    folder, records = pictures
    bare = [dict(record) for record in records]
    for record in bare[unknown]:
        del record["answer"]
        record["answers"] = []
    data = write(folder, "bare.jsonl", bare)
    result, said = start(tmp_path / "own", data=data, samples=4, heldout=8, objective="additive")
    assert re.search(r"\b[78] of 8 held-out\b", said)
    assert re.findall(r"^(\d)/6 .* s$", said, re.MULTILINE) == list("123456")
    assert not any("accuracy" in name for name in result.comparison.index)
    assert result.comparison["opsearch"].notna().all()


def test_a_single_item_is_enough(pictures, tmp_path):
    folder, records = pictures
    data = write(folder, "one.jsonl", records[:1])
    result, said = start(tmp_path / "own", data=data, objective="additive")
    assert re.search(r"\bone\.jsonl\b.*\b1 of 4 calibration\b.*\b0 of \d", " ".join(said.split()))
    assert re.findall(r"^(\d)/6 .* s$", said, re.MULTILINE) == list("123456")
    assert result.solution.policy is not None
    assert np.isnan(result.comparison["opsearch"]["KL held-out"])
    assert Policy.from_pretrained(result.folder).provenance["samples"] == 1


# Errors come before the model is loaded


def test_an_impossible_budget_needs_no_weights(tmp_path):
    model = tmp_path / "model"
    shutil.copytree(MODEL_DIR, model)
    (model / "model.safetensors").unlink()
    with pytest.raises(
        InfeasibleBudgetError,
        match=r"\b2% \(.*\).*\bflops\b.* dop \(.*\); .* to 100%; .*--budget [\d.]+%$",
    ):
        start(tmp_path / "out", model=str(model), budget=("2%",))
    with pytest.raises(OpsearchError, match=naming(model, "model.safetensors")):
        start(tmp_path / "out", model=str(model))


def test_the_suggested_budget_is_possible(tmp_path):
    with pytest.raises(InfeasibleBudgetError) as caught:
        start(tmp_path / "out", budget=("1%",), heldout=0)
    suggested = str(caught.value).rsplit("--budget ", 1)[1]
    result, _ = start(tmp_path / "out", budget=(suggested,), heldout=0, objective="additive")
    assert result.solution.policy is not None


# Interruptions

# So little memory cuts the joint table into a dozen chunks.
SLOW = {"samples": 3, "heldout": 2, "n_v": (".5", ".25"), "budget": ("70%",), "objective": "joint"}
SLOW |= {"memory": "5MB", "complete": True}
OPTIONS = ["--samples=3", "--heldout=2", "--n-v=.5,.25", "--budget=70%", "--objective=joint"]
OPTIONS += ["--memory=5MB", "--complete"]


def started(folder):
    """Start the same run in a process of its own."""
    command = [sys.executable, "-m", "opsearch", "run", *OPTIONS, "--out", folder]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )


def wait_for_measurements(process, folder, count):
    """Return when at least `count` divergences are stored, while the run goes on."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        assert process.poll() is None, process.communicate()
        try:
            if len(stored(folder)) >= count:
                return
        except sqlite3.OperationalError:
            pass  # not made yet
        time.sleep(0.05)
    raise AssertionError("the run measured nothing")


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    result, _ = start(tmp_path_factory.mktemp("run") / "whole", **SLOW)
    return result


# Divergences that are stored by then: the joint table has 666, in chunks of some 55.
KILLS = [
    (signal.SIGINT, 40),
    pytest.param(signal.SIGKILL, 300, marks=pytest.mark.slow),
    pytest.param(signal.SIGKILL, 1, marks=pytest.mark.slow),
    pytest.param(signal.SIGKILL, 667, marks=pytest.mark.slow),
]


@pytest.mark.usefixtures("ctrl_c")
@pytest.mark.parametrize(("sent", "after"), KILLS, ids=str)
def test_a_stopped_run_goes_on_where_it_stopped(uninterrupted, tmp_path, sent, after):
    folder = tmp_path / "stopped"
    process = started(folder)
    wait_for_measurements(process, folder, after)
    process.send_signal(sent)
    printed, said = process.communicate(timeout=60)
    kept, whole = stored(folder), stored(uninterrupted.folder)
    assert after <= len(kept) < len(whole)
    assert printed == ""
    if sent == signal.SIGINT:
        assert process.returncode == 130
        *_, last = said.splitlines()
        assert re.match("[a-z]", last)  # a sentence, not a stage
        assert "Traceback" not in said
    result, _ = start(folder, **SLOW)
    resumed = stored(folder)
    assert kept.items() <= resumed.items()
    assert resumed.keys() == whole.keys()
    assert max(abs(resumed[key] - whole[key]) / max(1, whole[key]) for key in whole) <= TOLERANCE
    assert result.solution.policy == uninterrupted.solution.policy
    assert result.solution.value == pytest.approx(uninterrupted.solution.value, abs=5 * KL_QUANTUM)


def test_a_stopped_guided_run_ends_as_an_undisturbed_one(tmp_path, monkeypatch):
    """TPE proposes again what was measured before, bit for bit, and asks nothing twice."""
    guided = {"heldout": 0, "objective": "joint", "solver": "optuna", "evaluations": 12, "seed": 1}
    whole, _ = start(tmp_path / "whole", **guided)
    evaluate = Joint.make

    def stopping(self, space, measure, feasible):
        objective = evaluate(self, space, measure, feasible)
        batches = []

        def second_batch_stops(indices):
            batches.append(indices)
            if len(batches) == 2:
                raise KeyboardInterrupt
            return objective.evaluate(indices)

        return replace(objective, evaluate=second_batch_stops)

    with monkeypatch.context() as patch:
        patch.setattr(Joint, "make", stopping)
        with pytest.raises(KeyboardInterrupt):
            start(tmp_path / "stopped", **guided)
    kept = stored(tmp_path / "stopped")
    resumed, _ = start(tmp_path / "stopped", **guided)
    assert 0 < len(kept) < len(stored(tmp_path / "whole"))
    assert stored(tmp_path / "stopped") == stored(tmp_path / "whole")
    assert resumed.solution.point == whole.solution.point
    assert resumed.solution.value == whole.solution.value
    assert resumed.solution.evaluations == whole.solution.evaluations == 12


def test_a_folder_in_use_is_refused(tmp_path):
    hold = (
        "import sys; from filelock import FileLock; lock = FileLock(sys.argv[1]); lock.acquire();"
        "print('held', flush=True); sys.stdin.read()"
    )
    folder = tmp_path / "used"
    folder.mkdir()
    other = subprocess.Popen(
        [sys.executable, "-c", hold, folder / ".lock"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert other.stdout.readline() == b"held\n"
    with pytest.raises(RunFolderError, match=naming(folder)):
        start(folder)
    other.kill()
    other.communicate()
    result, _ = start(folder, heldout=0, objective="additive")
    assert result.folder == folder


def test_a_folder_that_cannot_be_made_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunFolderError, match=naming(tmp_path / "file" / "run", "--out")):
        start(tmp_path / "file" / "run")


def test_a_damaged_store_is_refused_and_left_alone(tmp_path):
    (tmp_path / "measurements.db").write_text("damaged")
    with pytest.raises(
        RunFolderError, match=naming(tmp_path / "measurements.db", "file is not a database")
    ):
        start(tmp_path, heldout=0)
    assert (tmp_path / "measurements.db").read_text() == "damaged"
