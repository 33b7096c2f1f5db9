"""Random or given tables over small spaces, as a run measures them."""

from dataclasses import replace
from fractions import Fraction

import numpy as np

from opsearch.analysis.measured import Measured
from opsearch.objectives.additive import alone
from opsearch.problem.constraint import Constraint
from opsearch.problem.spaces.depth import dop_space

LAYERS = 4
N_V = (Fraction(1, 4), Fraction(1, 2), Fraction(3, 4))
DIVERGENCES = ("kl", "reverse_kl", "js", "top1")


def made(samples=12, seed=0, joint=None, layers=LAYERS, n_v=N_V, **changes):
    """A run over a small dop space with a cost that rises with what is kept.

    joint: KL [P, S]; by default random and lower where less is pruned. The single divergences are
    those of the joint's own rows, as in a real run.
    """
    space = dop_space(layers, n_v)
    random = np.random.default_rng(seed)
    sizes = np.array([max(len(p.values) - 1, 1) for p in space.parameters])
    kept = space.points / sizes
    if joint is None:
        joint = random.exponential(size=(len(kept), samples)) * (1.001 - kept.mean(axis=1))[:, None]
    tables = {name: joint * scale for name, scale in zip(DIVERGENCES, (1, 1.5, 0.3), strict=False)}
    tables["top1"] = (joint < np.nanmedian(joint)).astype(float)
    rows = [
        [space.index_of(point) for point in alone(space, k)] for k in range(len(space.parameters))
    ]
    costs = np.rint(1000 * (0.1 + 0.3 * kept.sum(axis=1))).astype(np.int64)
    measured = Measured(
        label="made",
        settings={"space": "dop", "kv": "leaves", "ranker": "cls", "out": "runs/made"},
        space=space,
        flops=Constraint("flops", "FLOPs", costs, 1000, 1000, samples),
        items=tuple(f"item {i}" for i in range(samples)),
        families=tuple(("count", "word", "color")[i % 3] for i in range(samples)),
        tables=tables,
        alone={name: tuple(table[r] for r in rows) for name, table in tables.items()},
    )
    return replace(measured, **changes)
