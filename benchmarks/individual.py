"""Individual divergences for the additive proxy, measured together against one by one."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.measuring import fastest, new_engine, processor_seconds
from benchmarks.narrow import one_by_one, random_llava, random_sample
from opsearch.costs.base import policy_cost
from opsearch.costs.flops import Flops
from opsearch.objectives.additive import Additive
from opsearch.policy.builders import identity
from opsearch.problem.spaces.depth import DepthSpace

_TIMES = 3


def individual(space: DepthSpace, side: int) -> dict[str, Any]:
    """Time the individual divergences of a space with side x side visual tokens, fastest of three.

    In the row, `values` counts the full-size forwards of a loop over all values, `policies` the
    distinct ones without the original. `one_by_one_forwards` counts live operations only.
    """
    model, sample = random_llava(space.num_layers, side), random_sample(side)
    values = Additive().policies(space)
    differing = {policy.canonical(sample.n_visual): policy for policy in values}
    del differing[identity(space.num_layers).canonical(sample.n_visual)]
    policies = list(differing.values())

    def together() -> tuple[NDArray[np.float64], float]:
        with new_engine(model) as engine:
            return processor_seconds(lambda: engine.measure(policies, [sample])[:, 0])

    def alone() -> tuple[NDArray[np.float64], float]:
        found, mean = one_by_one(model, sample, policies)
        return found, mean * len(policies)

    with new_engine(model) as engine:
        plan = engine.plan(policies, [sample])
    cost = Flops(plan.shape)
    live = sum(policy_cost(cost, policy, *sample.shape) for policy in policies)
    (ours, seconds), (theirs, one_by_one_s) = fastest(together, _TIMES), fastest(alone, _TIMES)
    return {
        "space": space.name,
        "objective": Additive.name,
        "visual_tokens": sample.n_visual,
        "values": len(values),
        "policies": len(policies),
        "forwards": round(plan.forwards, 1),
        "one_by_one_forwards": round(live / cost.stock(*sample.shape), 1),
        "together_s": round(seconds, 5),
        "one_by_one_s": round(one_by_one_s, 5),
        "ratio": round(one_by_one_s / seconds, 1),
        "max_difference_nats": float(np.abs(ours - theirs).max()),
    }
