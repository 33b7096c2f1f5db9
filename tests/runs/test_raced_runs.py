"""A run that races finds the policy, the value and the proof of a run that measures everything."""

import re
from io import StringIO
from itertools import count

import numpy as np
import pytest
from rich.console import Console

from opsearch.commands.analyze import analyze
from opsearch.commands.cli.printing import print_dry_run
from opsearch.commands.dry_run import dry_run
from opsearch.commands.front import run_front
from opsearch.commands.run import run
from opsearch.commands.solve import solve
from opsearch.costs import COSTS
from opsearch.costs.shape import Shape
from opsearch.errors import OpsearchError
from opsearch.measure.engine import Engine, SampleMeasure
from opsearch.measure.storage.store import Store
from opsearch.models.loading import load_config
from opsearch.policy.ranker import RankerSpec
from opsearch.problem.budget import Budget, constraint
from opsearch.problem.objective import KL_QUANTUM
from opsearch.problem.solution import Status
from opsearch.runs.choose import choose
from opsearch.runs.config import RunConfig
from opsearch.runs.search import search
from opsearch.runs.setup import resolve
from opsearch.testing.example_problems import budget, flops_like
from tests.measure.demo import LAYERS, model, samples
from tests.support.measured import stored_count
from tests.support.messages import naming

SAMPLES = samples(12)


def settings(**options):
    return resolve(RunConfig(**options), LAYERS, RankerSpec("cls"))


def small(**options):
    """Settings over four layers."""
    return resolve(RunConfig(objective="joint", n_v="8", **options), 4, RankerSpec("cls"))


def limits(space, text):
    cost = COSTS["flops"](Shape.from_config(load_config("demo")))
    return (constraint(Budget.parse(text), cost, space, [sample.shape for sample in SAMPLES]),)


class Lookup:
    """A measurement of a table of divergences, that counts what it was asked for."""

    def __init__(self, space, table):
        self.rows = {space.decode(row): i for i, row in enumerate(space.points.tolist())}
        self.table, self.asked = table, np.zeros(table.shape, int)

    def on(self, policies, samples):
        rows = [self.rows[policy] for policy in policies]
        self.asked[np.ix_(rows, samples)] += 1
        return self.table[np.ix_(rows, samples)]

    def __call__(self, policies):
        return self.on(policies, range(self.table.shape[1]))

    def received_attention(self):
        raise NotImplementedError

    def gate_gradients(self, policies):
        raise NotImplementedError


def found(options, measure, floor):
    given = settings(objective="joint", n_v="8", **options)
    return search(choose(given, 0.0), given, limits(given.space, "30%"), measure, floor)[1]


def test_one_hundred_random_problems_have_the_same_optimum_and_proof():
    given = [small(complete=complete) for complete in (False, True)]
    space, shares = given[0].space, []
    limited = (budget("flops", flops_like(space), 0.5),)
    for seed in range(100):
        random = np.random.default_rng(seed)
        shape = len(space.points), random.integers(1, 24)
        table = random.gamma(0.5, 1, shape) * random.gamma(1, 1, shape[1])
        table = np.round(table * random.gamma(2, 1, (shape[0], 1)), random.integers(0, 7))
        floor = random.choice([KL_QUANTUM, 1e-3, 0.3])
        raced, complete = Lookup(space, table), Lookup(space, table)
        answer, best = (
            search(choose(each, 0.0), each, limited, measure, floor)[1]
            for each, measure in zip(given, (raced, complete), strict=True)
        )
        same = ("policy", "index", "value", "costs", "status", "bound", "evaluations")
        assert [getattr(answer, n) for n in same] == [getattr(best, n) for n in same]
        assert answer.status is Status.OPTIMAL
        assert raced.asked.max() == 1
        shares.append(raced.asked.sum() / complete.asked.sum())
    assert np.mean(shares) < 0.7


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The optimum of complete measurement with the embedded model, and the number of values."""
    with Store(tmp_path_factory.mktemp("whole") / "m.db", {}) as store:
        best = found({"complete": True}, SampleMeasure(Engine(model(), store), SAMPLES), 1e-6)
        return best, stored_count(store)


def test_the_embedded_model_has_the_same_policy_value_and_proof(whole, tmp_path):
    best, values = whole
    with Store(tmp_path / "m.db", {}) as store:
        answer = found({}, SampleMeasure(Engine(model(), store), SAMPLES), 1e-6)
        assert stored_count(store) < 0.6 * values
    assert (answer.policy, answer.status) == (best.policy, Status.OPTIMAL)
    assert answer.value == pytest.approx(best.value, abs=2 * KL_QUANTUM)
    assert re.search(naming("part of the samples", "--complete"), answer.note)
    assert "--complete" not in best.note


def test_an_interrupted_race_resumes_where_it_stopped(whole, tmp_path):
    done = count()

    def stop(*amounts):
        if next(done) == 40:
            raise KeyboardInterrupt

    with Store(tmp_path / "m.db", {}) as store:
        with pytest.raises(KeyboardInterrupt):
            found({}, SampleMeasure(Engine(model(), store), SAMPLES, stop), 1e-6)
        before, engine = stored_count(store), Engine(model(), store)
        answer = found({}, SampleMeasure(engine, SAMPLES), 1e-6)
        assert engine.measured == stored_count(store) - before
        assert before > 0
        again = Engine(model(), store)
        assert found({}, SampleMeasure(again, SAMPLES), 1e-6).policy == answer.policy
        assert again.measured == 0
    assert (answer.policy, answer.status) == (whole[0].policy, Status.OPTIMAL)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("raced") / "run"
    config = RunConfig(samples=8, heldout=0, n_v="8", budget=("30%",), out=path)
    run(config, Console(file=StringIO()))
    return path


def test_solving_again_keeps_the_proof_and_says_what_another_budget_lacks(folder, tmp_path):
    same = solve(folder, out=tmp_path / "same").solution
    assert (same.status, same.bound) == (Status.OPTIMAL, same.value)
    other = solve(folder, ["20%"], out=tmp_path / "other").solution
    complete = RunConfig.load(folder / "run.yaml").changed(budget=("20%",), complete=True)
    whole = run(complete.model_copy(update={"out": tmp_path / "20"}), Console(file=StringIO()))
    assert other.bound <= whole.value + KL_QUANTUM
    if other.status is Status.OPTIMAL:
        assert other.policy.counts == whole.policy.counts
    else:
        assert re.search(naming("not measured on all samples", "`opsearch run"), other.note)


def test_readers_of_whole_tables_name_the_option(folder, tmp_path):
    table = run_front(folder)[0]
    assert re.search(naming("--complete", "on all samples"), table.sentence)
    with pytest.raises(OpsearchError, match="--complete"):
        analyze("rank", [folder], out=tmp_path)
    page = (folder / "report.html").read_text()
    assert "--complete" in page


def test_a_dry_run_says_what_racing_takes():
    said = []
    for complete in (False, True):
        page = StringIO()
        config = RunConfig(samples=8, heldout=0, n_v="8", complete=complete)
        print_dry_run(
            dry_run(config, None, Console(file=StringIO())), Console(file=page, width=300)
        )
        said.append(page.getvalue())
    assert re.search(naming("joint by racing", "--complete"), said[0])
    assert "racing" not in said[1]
