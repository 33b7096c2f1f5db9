"""Runs on Ray workers equal runs in one process, also after losses, and leave no process."""

import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from fractions import Fraction
from importlib.util import find_spec
from io import StringIO
from pathlib import Path
from uuid import uuid4

import numpy as np
import pandas as pd
import pytest
import torch
from rich.console import Console

from benchmarks.scaling import processes, workers
from opsearch import RunConfig
from opsearch.commands.compare import compare
from opsearch.commands.run import run
from opsearch.errors import ModelError, OpsearchError
from opsearch.measure.engine import Engine
from opsearch.measure.planning.chunks import Chunk
from opsearch.measure.progress import PlanProgress
from opsearch.measure.storage.store import Store
from opsearch.measure.workers.cluster import Workers, joined, started
from opsearch.measure.workers.worker import WorkerModel
from opsearch.models.fingerprint import fingerprint
from opsearch.models.loading import load_weights
from opsearch.models.spec import ModelSpec
from opsearch.policy.ranker import RankerSpec
from opsearch.problem.objective import KL_QUANTUM
from opsearch.problem.spaces.depth import dop_space
from opsearch.progress import Progress
from opsearch.runs.prepare import prepare, settle
from opsearch.runs.run_folder import RunFolder
from opsearch.runs.session import open_session
from tests.commands.test_run import stored, wait_for_measurements
from tests.measure.demo import LAYERS, TOLERANCE, model, samples
from tests.support.messages import naming

# Ray itself is imported by what is tested, which sets its environment before.
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(300),
    pytest.mark.skipif(find_spec("ray") is None, reason="ray is not installed"),
]

# So little memory cuts the joint table into chunks of one sample, with workers or without.
SETTINGS = {"samples": 8, "heldout": 3, "n_v": (".5", ".25"), "budget": ("50%",), "memory": "5MB"}
OPTIONS = ["--samples=8", "--heldout=3", "--n-v=.5,.25", "--budget=50%", "--memory=5MB"]
SETTINGS |= {"objective": "joint", "complete": True}  # hundreds of policies, to share among workers
OPTIONS += ["--objective=joint", "--complete"]
LOST = r"\bworker\b.*\("  # and then why
MARK = "OPSEARCH_TEST"


def start(folder, workers=None, **settings):
    """Run in this process and return the result with what it said meanwhile."""
    said = StringIO()
    config = RunConfig(**{**SETTINGS, "out": folder, **settings})
    return run(config, Console(file=said, width=300), workers=workers), said.getvalue()


@pytest.fixture
def command():
    """Start the same run in a process of its own, whose descendants carry a mark."""
    processes = []

    def begun(folder, mark, *options):
        line = [sys.executable, "-m", "opsearch", "run", *OPTIONS, "--out", folder, *options]
        process = subprocess.Popen(
            line,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, MARK: mark},
            start_new_session=True,
        )
        processes.append(process)
        return process

    yield begun
    for process in processes:
        process.kill()
        process.communicate()


def marked(mark, name=""):
    """Processes that descend from one with this mark, those of a name only."""
    found = []
    for folder in Path("/proc").iterdir():
        try:
            if (
                f"{MARK}={mark}".encode() in (folder / "environ").read_bytes()
                and name in (folder / "cmdline").read_text()
            ):
                found.append(int(folder.name))
        except (OSError, ValueError):
            pass  # no process, or none of ours, or gone
    return found


def wait_until(holds, seconds):
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.2)


def assert_all_end(mark, seconds, name=""):
    wait_until(lambda: not marked(mark, name), seconds)


def assert_equal(result, whole):
    """The same measurements within the tolerance, and the same choice."""
    found, wanted = stored(result.folder), stored(whole.folder)
    assert found.keys() == wanted.keys()
    assert max(abs(found[key] - wanted[key]) / max(1, wanted[key]) for key in wanted) <= TOLERANCE
    assert result.solution.policy == whole.solution.policy
    assert result.solution.value == pytest.approx(whole.solution.value, abs=5 * KL_QUANTUM)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The run without workers."""
    return start(tmp_path_factory.mktemp("run") / "whole")[0]


@pytest.fixture(scope="module")
def ray():
    """A Ray of three cores that this process stays connected to; gives the mark of its workers."""
    mark = os.environ[MARK] = uuid4().hex
    with joined(3, None):
        yield mark
    del os.environ[MARK]
    assert_all_end(mark, 30, "ray::")


@pytest.fixture(autouse=True)
def no_worker_outlives(request):
    """No worker outlives its test, nor is taken for one of the next."""
    yield
    if "ray" in request.fixturenames:
        assert_all_end(request.getfixturevalue("ray"), 30, "ray::Worker")


@pytest.fixture
def added(monkeypatch):
    """How often each measurement is written."""
    written = Counter()
    add = Store.add

    def counting(self, measurements):
        rows = list(measurements)
        written.update((row.policy, row.item) for row in rows)
        add(self, rows)

    monkeypatch.setattr(Store, "add", counting)
    return written


def test_workers_measure_what_one_process_measures(whole, ray, added, tmp_path):
    result, said = start(tmp_path / "two", Workers(2))
    assert_equal(result, whole)
    assert set(added.values()) == {1}
    assert added.keys() == stored(result.folder).keys()
    numbers = result.comparison.loc[["KL calibration", "KL held-out", "accuracy, %"]]
    wanted = whole.comparison.loc[["KL calibration", "KL held-out", "accuracy, %"]]
    pd.testing.assert_frame_equal(numbers, wanted, rtol=0, atol=TOLERANCE)
    assert "Ray" in said
    assert not re.search(LOST, said)


def test_compare_measures_with_workers_too(whole, ray, tmp_path, added):
    folder = start(tmp_path / "run", objective="additive")[0].folder
    added.clear()
    compare(folder, ["50%"], samples=5, console=Console(file=StringIO()), workers=Workers(2))
    assert set(added.values()) == {1}
    joint = {key: kl for key, kl in stored(whole.folder).items() if key in added}
    found = stored(folder)
    assert len(joint) > 500
    assert max(abs(found[key] - joint[key]) / max(1, joint[key]) for key in joint) <= TOLERANCE


def test_a_killed_worker_is_replaced_and_nothing_is_lost(whole, ray, tmp_path, monkeypatch, added):
    killed = []
    add = Store.add

    def killing(self, measurements):
        add(self, measurements)
        if len(killed) < 2 and len(added) > 300 * (1 + len(killed)):
            (victim, *_) = marked(ray, "ray::Worker")
            os.kill(victim, signal.SIGKILL)
            killed.append(victim)

    monkeypatch.setattr(Store, "add", killing)
    result, said = start(tmp_path / "killed", Workers(2))
    assert len(killed) == 2
    assert len(re.findall(LOST, said)) == 2
    assert_equal(result, whole)
    assert set(added.values()) == {1}


@pytest.mark.parametrize("chosen", [None, "active"])
def test_threads_of_workers_sleep_unless_the_user_decided_otherwise(ray, monkeypatch, chosen):
    monkeypatch.delenv("GOMP_SPINCOUNT", raising=False)
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    if chosen:
        monkeypatch.setenv("OMP_WAIT_POLICY", chosen)
    with started(Workers(1), WorkerModel(ModelSpec(), 1), print) as remote:
        remote.meet(fingerprint(model()))
        (worker,) = marked(ray, "ray::Worker")
        variables = Path(f"/proc/{worker}/environ").read_text().split("\0")
    assert f"OMP_WAIT_POLICY={chosen or 'passive'}" in variables


def test_progress_goes_on_by_layer_and_reaches_the_end(ray, tmp_path):
    space, seen = dop_space(LAYERS, ranker=RankerSpec("cls")), []
    policies = [space.decode(point) for point in space.points.tolist()[::2]]
    source = WorkerModel(ModelSpec(), 1)
    with (
        Store(tmp_path / "m.db", {}) as store,
        started(Workers(2), source, print) as remote,
    ):
        remote.meet(fingerprint(model()))
        engine = Engine(model(), store, workers=remote)
        planned = engine.plan(policies, samples(16))
        values = engine.measure(policies, samples(16), lambda *each: seen.append(each))
    assert not np.isnan(values).any()
    assert {total for _, total in seen} == {planned.flops}
    assert seen[-1][0] == planned.flops
    assert len(seen) > len(remote.share(planned).chunks)


def test_errors_of_a_call_that_ended_do_not_reach_the_next(ray, tmp_path):
    """Both workers fail without what the ranker reads; the second one's failure comes in later."""
    space = dop_space(LAYERS, ranker=RankerSpec("cls"))
    policies = [space.decode(point) for point in ([6, 4, 3], [9, 5, 8])]
    source = WorkerModel(ModelSpec(), 1)
    with (
        Store(tmp_path / "m.db", {}) as store,
        started(Workers(2), source, print) as remote,
    ):
        remote.meet(fingerprint(model()))
        engine = Engine(model(), store, memory=1, workers=remote)
        plan = remote.share(engine.plan(policies, samples(4)))
        with pytest.raises(KeyError):
            list(remote.measure(plan.chunks, frozenset(), PlanProgress(plan, None), Chunk.halves))
        values = engine.measure(policies, samples(4))
    assert not np.isnan(values).any()


def test_the_suite_times_one_worker_against_two(ray):
    row = workers(samples=2, n_v=[Fraction(1, 2)])
    assert (row["samples"], row["pairs"]) == (2, 7)
    low, middle, high = row["ratio"]
    assert 0 < low <= middle <= high
    for name in ("one_cpu_s", "two_cpu_s"):
        assert row[name]["workers"] > 0
        assert row[name]["driver"] > 0


def test_the_suite_times_two_plain_processes_against_one():
    row = processes(samples=2, n_v=[Fraction(1, 2)])
    assert (row["samples"], row["pairs"]) == (2, 3)
    assert all(0 < part < 20 for name in ("ratio", "cpu_ratio") for part in row[name])


def test_a_worker_with_another_model_is_refused(ray):
    source = WorkerModel(ModelSpec(), 1)
    with (
        pytest.raises(ModelError, match=naming("'demo'")),
        started(Workers(1), source, print) as remote,
    ):
        remote.meet("another")


def test_workers_do_not_measure_in_place_of_another_model_in_memory(ray, tmp_path):
    """Workers load the model by its name, so that a change in memory does not reach them."""
    changed, progress = load_weights("demo"), Progress(None, 1)
    with torch.no_grad():
        next(changed.parameters()).add_(1)
    config = RunConfig(samples=1, heldout=0, out=tmp_path)
    prepared, folder = prepare(settle(config), progress), RunFolder(tmp_path)
    with (
        pytest.raises(ModelError, match=naming("'demo'")),
        open_session(prepared, folder, progress, Workers(1), changed),
    ):
        pass


def test_what_a_worker_cannot_load_is_one_sentence(ray):
    source = WorkerModel(ModelSpec("no/such"), 1)
    with (
        pytest.raises(ModelError, match=naming("'no/such'")),
        started(Workers(1), source, print) as remote,
    ):
        remote.meet("another")


def test_there_are_not_more_workers_than_places(ray):
    said = []
    source = WorkerModel(ModelSpec(), 1)
    with started(Workers(5), source, said.append) as remote:
        assert remote.count == 3
    assert re.search(naming(3, 5), said[-1])
    gpu = WorkerModel(ModelSpec(device="cuda"), 1)
    with (
        pytest.raises(OpsearchError, match=naming("--device cuda")),
        started(Workers(1), gpu, said.append),
    ):
        pass


def test_a_killed_driver_leaves_no_process_and_goes_on(whole, ray, tmp_path, added, command):
    folder, mark = tmp_path / "stopped", uuid4().hex
    process = command(folder, mark, "--workers=2")
    wait_for_measurements(process, folder, 100)
    assert marked(mark, "ray::Worker")
    process.kill()
    printed, said = process.communicate()
    kept = stored(folder)
    assert 100 <= len(kept) < len(stored(whole.folder))
    result, _ = start(folder, Workers(2))
    assert_equal(result, whole)
    assert set(added.values()) == {1}
    assert not added.keys() & kept.keys()
    assert printed == ""
    assert not re.search(LOST, said)
    assert_all_end(mark, 120)  # two small helpers of Ray notice within a minute


@pytest.mark.usefixtures("ctrl_c")
@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_ends_workers_and_ray(tmp_path, sent, command):
    folder, mark = tmp_path / "stopped", uuid4().hex
    process = command(folder, mark, "--workers=2")
    wait_for_measurements(process, folder, 100)
    # A terminal sends Ctrl-C to all; a batch system ends the driver.
    os.killpg(process.pid, sent) if sent == signal.SIGINT else process.send_signal(sent)
    printed, said = process.communicate(timeout=60)
    assert (process.returncode, printed) == (128 + sent, "")
    *lines, last = said.strip().splitlines()
    assert not re.match(r"\d/7 ", last)
    # But for stages and the start of Ray nothing of Ray's, and no traceback.
    others = [line for line in lines if not re.match(r"\d/7 ", line)]
    assert sum("Ray" in line for line in others) == 1, said
    assert all("Ray" in line or "--effort" in line for line in others), said
    assert len(stored(folder)) >= 100
    assert_all_end(mark, 30)


def test_a_lost_machine_is_replaced_by_the_others(whole, tmp_path, command, monkeypatch):
    """A cluster of three machines of one core, each a Ray node of its own here; one goes away."""
    from ray.cluster_utils import Cluster

    folder, mark = tmp_path / "cluster", uuid4().hex
    monkeypatch.setenv(MARK, nodes := uuid4().hex)
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    address = cluster.address  # which its shutdown forgets
    try:
        second, _ = [cluster.add_node(num_cpus=1) for _ in range(2)]
        process = command(folder, mark, "--ray-address", address)
        wait_for_measurements(process, folder, 100)
        # The driver holds still meanwhile, or it might be done before all three take part.
        process.send_signal(signal.SIGSTOP)
        wait_until(lambda: len(marked(nodes, "ray::Worker")) == 3, 60)
        cluster.remove_node(second, allow_graceful=False)
        wait_until(lambda: len(marked(nodes, "ray::Worker")) == 2, 60)
        process.send_signal(signal.SIGCONT)
        _, said = process.communicate(timeout=200)
    finally:
        cluster.shutdown()
    assert process.returncode == 0, said
    assert address in said
    assert re.search(LOST, said)
    found, wanted = stored(folder), stored(whole.folder)
    assert found.keys() == wanted.keys()
    assert max(abs(found[key] - wanted[key]) / max(1, wanted[key]) for key in wanted) <= TOLERANCE
    assert_all_end(mark, 30)


def test_a_cluster_that_is_not_there_is_one_sentence(tmp_path, command):
    process = command(tmp_path / "none", uuid4().hex, "--ray-address", "127.0.0.1:1")
    printed, said = process.communicate(timeout=120)
    assert (process.returncode, printed) == (1, "")
    assert re.search(r"error: .*'127\.0\.0\.1:1'.*`ray start --head`", said)
    assert "Traceback" not in said
