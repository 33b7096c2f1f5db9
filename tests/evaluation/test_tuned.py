"""Settings chosen by a race are those that complete measurement chooses, for fewer values."""

from fractions import Fraction
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from opsearch.costs import COSTS
from opsearch.costs.shape import Shape
from opsearch.evaluation.tuned import choose_settings
from opsearch.measure.engine import Engine
from opsearch.measure.storage.store import Store
from opsearch.models.loading import load_config
from opsearch.policy import builders
from opsearch.policy.baseline import EVALUATIONS, candidates, with_evaluations
from opsearch.policy.ranker import RankerSpec
from opsearch.problem.budget import total_cost
from opsearch.problem.objective import KL_QUANTUM, rounded_mean
from tests.measure.demo import LAYERS, model, samples
from tests.support.measured import stored_count

UNIFORM = RankerSpec("uniform")


class Lookup:
    """An engine that looks divergences up in a table, and remembers what it was asked for."""

    def __init__(self, policies, table, known, floor):
        self.rows = {policy: row for row, policy in enumerate(policies)}
        self.table, self.known, self.floor = table, known.copy(), floor
        self.samples = [
            SimpleNamespace(n_visual=100, original=None, number=i) for i in range(table.shape[1])
        ]

    def noise_floor(self, samples, progress=None):
        return self.floor

    def _at(self, policies, samples):
        return np.ix_([self.rows[p] for p in policies], [each.number for each in samples])

    def stored(self, policies, samples):
        at = self._at(policies, samples)
        return np.where(self.known[at], self.table[at], np.nan)

    def measure(self, policies, samples, progress=None):
        self.known[self._at(policies, samples)] = True
        return self.table[self._at(policies, samples)]


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    sizes=st.lists(st.integers(1, 9), min_size=1, max_size=4),
    count=st.integers(1, 20),
    digits=st.integers(0, 7),
    floor=st.sampled_from([0.0, 1e-4, 0.3]),
    stored=st.sampled_from([0.0, 0.3, 1.0]),
)
def test_it_chooses_what_complete_measurement_chooses(seed, sizes, count, digits, floor, stored):
    random = np.random.default_rng(seed)
    shape = sum(sizes), count
    table = (
        random.gamma(0.4, 1, shape) * random.gamma(1, 1, count) * random.gamma(1, 1, (shape[0], 1))
    )
    table = np.round(table, digits)  # coarse digits make many ties
    policies = [builders.tokens(2, Fraction(i + 1, 100), UNIFORM) for i in range(shape[0])]
    costs = dict(zip(policies, random.integers(0, 3, shape[0]).tolist(), strict=True))
    ends = np.cumsum(sizes).tolist()
    methods = {end: policies[end - size : end] for size, end in zip(sizes, ends, strict=True)}
    engine = Lookup(policies, table, random.random(shape) < stored, floor)
    chosen = choose_settings(methods, engine, engine.samples, costs.__getitem__)
    quanta = np.rint(rounded_mean(table) / max(floor, KL_QUANTUM))
    for key, found in methods.items():
        rows = [engine.rows[policy] for policy in found]
        best = min(rows, key=lambda row: (quanta[row], costs[policies[row]], row))
        assert chosen[key] == policies[best]
        assert chosen[key].provenance[EVALUATIONS] == (len(found) if len(found) > 1 else 0)
        assert engine.known[best].all()


def test_what_an_earlier_race_dropped_last_sets_the_bar():
    """One sample is known of the first policy, two of the second and third: the third is lower."""
    policies = [builders.tokens(2, Fraction(i, 100), UNIFORM) for i in (1, 2, 3)]
    table = np.array([[9.0, 9.0, 0.0], [5.0, 5.0, 0.0], [1.0, 1.0, 0.0]])
    known = np.array([[True, False, False], [True, True, False], [True, True, False]])
    engine = Lookup(policies, table, known, 0.0)
    assert choose_settings({"a": policies}, engine, engine.samples, lambda _: 0)["a"] == policies[2]
    assert engine.known.tolist() == [[True, False, False], [True, True, False], [True] * 3]


@pytest.fixture(scope="module")
def methods():
    """Candidates of baselines on the embedded model, at 30 % of the FLOPs."""
    flops, pairs = COSTS["flops"](Shape.from_config(load_config("demo"))), [(100, 12)]
    most = total_cost(flops, builders.identity(LAYERS), pairs) * 3 // 10
    found = candidates(LAYERS, RankerSpec("cls"), lambda p: total_cost(flops, p, pairs) <= most)
    return {label: [with_evaluations(p, 5) for p in policies] for label, policies in found.items()}


def test_the_embedded_model_has_the_same_settings_from_fewer_values(methods, tmp_path):
    given, free = samples(8), lambda policy: 0
    with Store(tmp_path / "m.db", {}) as store, Store(tmp_path / "whole.db", {}) as whole:
        chosen = choose_settings(methods, Engine(model(), store), given, free)
        complete = Engine(model(), whole)
        complete.measure([policy for found in methods.values() for policy in found], given)
        assert stored_count(store) < 0.95 * stored_count(whole)
        for label, found in methods.items():
            values = rounded_mean(complete.measure(found, given))
            best = complete.measure([chosen[label]], given).mean()
            assert best == pytest.approx(values.min(), abs=2 * KL_QUANTUM)
            keys = {policy.canonical(100) for policy in found}
            tried = len(keys) if len(found) > 1 else 0
            assert chosen[label].provenance[EVALUATIONS] == 5 + tried
        again = Engine(model(), store)
        assert choose_settings(methods, again, given, free) == chosen
        assert again.measured == 0
