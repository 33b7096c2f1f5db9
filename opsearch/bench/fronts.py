"""Suite `fronts`: seconds of an exact Pareto front.

Of a table as large as the dop space of 32 layers, and of sums over a choice per operation of the
same decoder, see `layer_programs`. Seconds are processor time, the fastest of five.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import numpy as np

Row = dict[str, Any]

_REPEATS = 5
_LOWEST, _HIGHEST = "15%", "60%"


def fronts() -> Iterator[Row]:
    """One row per table or space: seconds, and the points on the front."""
    from opsearch.analysis.pareto import front
    from opsearch.bench.layer_programs import effects, limit
    from opsearch.layer_space import layers_space
    from opsearch.problem import Problem, Separable
    from opsearch.summed_front import summed_front

    random = np.random.default_rng(0)
    shape = 33, 33, 16
    rising = [np.sort(random.integers(0, 10**10, size)) for size in shape]
    falling = [np.sort(random.lognormal(-3, 2, size))[::-1] for size in shape]
    costs, values = _sums(*rising), _sums(*falling)
    found, seconds = _fastest(lambda: front(costs, values))
    yield {"of": "table", "points": len(costs), "front": len(found), "seconds": seconds}
    for tied in (True, False):
        space = layers_space(32, tied=tied)
        terms, _ = effects(space, [])
        highest = limit(space, _HIGHEST)
        problem = Problem(space, Separable("random", "nats", space, terms, 1e-6), (highest,))
        found, seconds = _fastest(lambda problem=problem: summed_front(problem))
        lowest = limit(space, _LOWEST).limit
        within = sum(highest.cost(point) >= lowest for point in found)
        operations = len(space.operations)
        yield {"of": "layers", "operations": operations, "front": within, "seconds": seconds}


def _sums(first: Any, second: Any, third: Any) -> Any:
    """Every sum of one entry of each."""
    return (first[:, None, None] + second[:, None] + third).ravel()


def _fastest(work: Any) -> tuple[Any, float]:
    """What it returns, and the least seconds that it took."""
    seconds = []
    for _ in range(_REPEATS):
        start = time.process_time()
        found = work()
        seconds.append(time.process_time() - start)
    return found, round(min(seconds), 5)
