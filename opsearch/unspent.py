"""Which baselines leave a part of a budget unspent, because their knobs turn in steps."""

from __future__ import annotations

from collections.abc import Mapping

from opsearch.contenders import Place, budget_limit
from opsearch.policy.policy import Policy
from opsearch.prepare import Prepared
from opsearch.problem.budget import total_cost
from opsearch.progress import Stages
from opsearch.reduced import reduction_cost
from opsearch.reducers import Reduction

POINTS = 2  # of the stock model's cost in %, below which rows still count as equal
_REASONS = {
    "VTW": "its layers are whole",
    "ShortV": "its layers are whole",
    "GSOP": "it prunes whole operations",
    "SparseVLM": "its first drop can keep no more than all tokens",
    "pool": "its grids have whole rows and columns",
    "resize": "its pictures have whole rows and columns of tokens",
}
_OTHERWISE = "no step of its knob is nearer"


def say_unspent(
    methods: Mapping[Place, Policy | Reduction], prepared: Prepared, stages: Stages
) -> None:
    """Say of each method that is more than 2 points below its budget what it takes, and why."""
    pairs = [sample.shape for sample in prepared.calibration]
    for (text, method), found in methods.items():
        cost, limit, stock = budget_limit(text, prepared)
        if isinstance(found, Reduction):
            spent = reduction_cost(cost, found.n_visual, prepared.calibration)
        else:
            spent = total_cost(cost, found, pairs)
        if 100 * (min(limit, stock) - spent) > POINTS * stock:
            reason = _REASONS.get(method, _OTHERWISE)
            share = f"{100 * spent / stock:.1f}% of {cost.name}"
            stages.say(f"{method} takes {share} at {text}: {reason}")
