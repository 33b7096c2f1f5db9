"""Search after G-Search: tokens are dropped layer by layer within the lowest bound on KL."""

from dataclasses import dataclass, field
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest

from opsearch.evaluation.gsearch import GSearch
from opsearch.measure.counted import CountedMeasure
from opsearch.policy.baseline import EVALUATIONS
from opsearch.policy.builders import curve, tokens
from opsearch.policy.ranker import RankerSpec

CLS = RankerSpec("cls")
NEEDS = (0.8, 0.8, 0.5, 0.5, 0.1, 0.1)
LAYERS, VISUAL, SAMPLES = len(NEEDS), 1000, 5


@dataclass
class Essential:
    """Measures the tokens that are missing from the essential ones, .

    Attributes:
        samples: Samples of `VISUAL` tokens.
        measured: Keys of the measured policies.
    """

    samples: tuple = (SimpleNamespace(n_visual=VISUAL, original=None),) * SAMPLES
    measured: set = field(default_factory=set)

    def __call__(self, policies):
        rows = []
        for policy in policies:
            shares = [kv for _, kv, _ in policy.counts]
            missing = sum(max(need - kv, 0) for need, kv in zip(NEEDS, shares, strict=True))
            rows.append([float(missing)] * SAMPLES)
            if min(shares) < 1:  # the original is known
                self.measured.add(policy.canonical(VISUAL))
        return np.array(rows)


def mean_share(policy):
    return float(sum(kv for _, kv, _ in policy.counts)) / LAYERS


def searched(budget, evaluations=300):
    measure = Essential()
    search = GSearch(
        LAYERS, CLS, lambda p: mean_share(p) <= budget, CountedMeasure(measure), evaluations
    )
    return search.solve(), measure


@pytest.mark.parametrize("budget", [0.0, 0.05, 0.2, 0.35, 0.6, 1.0])
def test_counts_never_rise_and_use_up_the_budget(budget):
    policy, _ = searched(budget)
    shares = [kv for _, kv, _ in policy.counts]
    assert policy.counts == tuple((share,) * 3 for share in shares)
    assert policy.rankers == ((0, CLS),)
    assert all(later <= earlier for earlier, later in pairwise(shares))
    assert budget - 0.001 <= mean_share(policy) <= budget


def test_the_fewest_essential_tokens_are_found_layer_by_layer():
    """A budget of just these tokens, and of the steps that are tested, costs no KL."""
    policy, measure = searched(sum(NEEDS) / LAYERS + 0.032)
    assert measure([policy]).mean() < 0.01 * measure([tokens(LAYERS, "1/2", CLS)]).mean()
    for need, (_, kv, _) in zip(NEEDS, policy.counts, strict=True):
        assert need - 0.01 <= kv <= need + 0.1


def test_it_is_better_than_equal_shares():
    for budget in (0.3, 0.5, 0.6):
        policy, measure = searched(budget)
        equal = curve(LAYERS, [f"{int(1000 * budget)}/1000"] * LAYERS, CLS)
        assert measure([policy]).mean() < measure([equal]).mean()


@pytest.mark.parametrize("limit", [1, 2, 7, 20])
def test_evaluations_are_counted_and_limited(limit):
    policy, measure = searched(0.3, limit)
    assert policy.provenance[EVALUATIONS] == len(measure.measured) == limit
    assert mean_share(policy) <= 0.3
    equal = curve(LAYERS, ["3/10"] * LAYERS, CLS)
    assert measure([policy]).mean() <= measure([equal]).mean()


def test_it_ends_by_itself_and_is_deterministic():
    policy, measure = searched(0.3, 10_000)
    assert policy.provenance[EVALUATIONS] == len(measure.measured) < 300
    assert searched(0.3, 10_000)[0] == policy
