"""Policies by rule are the dearest within a budget; the roofline is what its definition says."""

from dataclasses import replace

import numpy as np
import pytest

from benchmarks.roofline import Roofline
from benchmarks.rules import by_rule, usual_budgets
from opsearch.costs.flops import Flops
from opsearch.costs.shape import CHECKPOINTS, Shape
from opsearch.policy import builders
from opsearch.policy.ranker import RankerSpec
from opsearch.timing.policy_latency import flop_ratio

NEXT = CHECKPOINTS["llava-next-7b"].shape


@pytest.mark.parametrize("rule", ["tokens", "dop", "dop, kv stays"])
@pytest.mark.parametrize("budget", [0.14, 0.25, 0.4])
def test_the_dearest_that_fits(rule, budget):
    policy = by_rule(rule, budget, NEXT, 2880, 65)
    found = flop_ratio(NEXT, policy, 2880, 65)
    dearer = by_rule(rule, 1.0, NEXT, 2880, 65)
    assert found <= budget
    assert found > budget - 0.03
    assert flop_ratio(NEXT, dearer, 2880, 65) > found


def test_nothing_fits_below_the_text():
    assert by_rule("tokens", 0.01, NEXT, 2880, 65) is None


def test_budgets_by_the_floor():
    budgets = {
        name: usual_budgets(checkpoint.shape, checkpoint.visual_tokens, 65)
        for name, checkpoint in CHECKPOINTS.items()
    }
    assert budgets["llava-next-7b"] == budgets["internvl3-8b"] == (0.14,)
    assert budgets["llava-1.5-7b"] == budgets["llava-1.5-13b"] == (0.25, 0.5)


def test_floor_is_compute_or_weights_layer_by_layer():
    shape = Shape(2, 64, 96, 4, 4, 16, 128)
    counts = builders.dop(2, 1, 1, "1/2", RankerSpec("uniform")).executed(100)
    compute = Flops(replace(shape, vocab=0)).stock(100, 10)
    everything = np.full((2, 3), 100, np.int64)
    fast_memory, slow_memory = Roofline(1.0, 1e12), Roofline(1e30, 1.0)
    assert fast_memory.floor(shape, everything, 100, 10, batch=3) == 3 * compute
    weights = 2 * 2 * (4 * 64 * 64 + 3 * 64 * 96)
    assert slow_memory.floor(shape, counts, 100, 10, batch=3) == weights
    assert fast_memory.floor(shape, counts, 100, 10, 1) < compute
