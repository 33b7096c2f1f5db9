"""Suite `engine`: true divergence of every policy, measured together against one by one.

The model is a random LLaVA of 32 narrow layers with one sample. One by one means `Policy.apply` and
a forward for each policy, timed on a subset where all would take too long. Seconds are processor
time, which other processes do not affect: run it with one thread.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fractions import Fraction
from itertools import product
from typing import Any

import numpy as np

from benchmarks.individual import individual
from benchmarks.measuring import new_engine, processor_seconds
from benchmarks.narrow import one_by_one, random_llava, random_sample
from opsearch.costs.flops import Flops
from opsearch.costs.shape import Shape
from opsearch.models.encoding import Sample
from opsearch.policy.policy import Policy
from opsearch.policy.ranker import RankerSpec
from opsearch.problem.spaces.base import N_V_16, space_costs
from opsearch.problem.spaces.depth import DepthSpace, depth_space, dop_space
from opsearch.problem.spaces.stages import StageSpace, stages_space

_LAYERS, _CLS, _FASTV = 32, RankerSpec("cls"), RankerSpec("fastv")


def engine() -> Iterator[dict[str, Any]]:
    """Time whole spaces, together and one by one."""
    whole, shares = [Fraction(1)], [Fraction(n, 10) for n in range(1, 10)]
    dop, depth = dop_space(_LAYERS, whole, _CLS), depth_space(_LAYERS, whole, _CLS)
    yield compared(dop, side=24, every=8)
    yield compared(dop, side=48, every=16)
    yield compared(depth, side=24, every=160)
    yield compared(stages_space(_LAYERS, shares, _FASTV, stages=1), side=24, every=8)
    yield compared(stages_space(_LAYERS, shares[1::3], _FASTV), side=24, every=40)
    yield shared(questions=4, side=24)
    yield individual(dop_space(_LAYERS, N_V_16, _CLS), side=24)


def compared(space: DepthSpace | StageSpace, side: int, every: int) -> dict[str, Any]:
    """Time a space with side x side visual tokens, and every `every`-th policy one by one."""
    model, sample = random_llava(space.num_layers, side), random_sample(side)
    policies = [space.decode(point) for point in space.points.tolist()]
    with new_engine(model) as measuring:
        plan = measuring.plan(policies, [sample])
        found, seconds = processor_seconds(lambda: measuring.measure(policies, [sample]))
    together = found[::every, 0]
    alone, each = one_by_one(model, sample, policies[::every])
    one_by_one_s = each * len(policies)
    # A loop over the grid, whose points papers count, repeats equal policies.
    grid = list(product(*(range(len(parameter.values)) for parameter in space.parameters)))
    points = grid[:: len(grid) // len(alone)]
    loop = one_by_one(model, sample, [space.decode(point) for point in points])[1] * len(grid)
    return {
        "space": space.name,
        "ranker": str(next(spec for policy in policies for _, spec in policy.rankers)),
        "visual_tokens": sample.n_visual,
        "policies": len(policies),
        "forwards": round(plan.forwards, 1),
        "one_by_one_forwards": round(_forwards(space, plan.shape, sample)),
        "together_s": round(seconds, 5),
        "one_by_one_s": round(one_by_one_s, 5),
        "timed_alone": len(alone),
        "ratio": round(one_by_one_s / seconds, 1),
        "points": len(grid),
        "loop_s": round(loop, 5),
        "loop_ratio": round(loop / seconds, 1),
        "max_difference_nats": float(np.abs(together - alone).max()),
    }


def shared(questions: int, side: int, layers: int = _LAYERS) -> dict[str, Any]:
    """Time the dop space at n_v = 1 for questions on one image and on an image each."""
    model = random_llava(layers, side)
    space = dop_space(layers, [Fraction(1)], _CLS)
    policies = [space.decode(point) for point in space.points.tolist()]
    same = [random_sample(side, question=number) for number in range(questions)]
    own = [random_sample(side, question=number, image=number) for number in range(questions)]
    together, seconds = _measured(model, policies, same)
    apart, seconds_apart = _measured(model, policies, own)
    return {
        "space": space.name,
        "visual_tokens": same[0].n_visual,
        "policies": len(policies),
        "questions": questions,
        "forwards_one_image": round(together, 1),
        "forwards_own_images": round(apart, 1),
        "one_image_s": round(seconds, 5),
        "own_images_s": round(seconds_apart, 5),
        "ratio": round(seconds_apart / seconds, 2),
    }


def _measured(
    model: Any, policies: Sequence[Policy], samples: Sequence[Sample]
) -> tuple[float, float]:
    """Return the planned forwards of the original per sample, and the seconds."""
    with new_engine(model) as engine:
        forwards = engine.plan(policies, samples).forwards
        return forwards, processor_seconds(lambda: engine.measure(policies, samples))[1]


def _forwards(space: DepthSpace | StageSpace, shape: Shape, sample: Sample) -> float:
    """Return the cost of all policies one by one, in forwards of the original."""
    cost = Flops(shape)
    return float(space_costs(cost, space, [sample.shape]).sum() / cost.stock(*sample.shape))
