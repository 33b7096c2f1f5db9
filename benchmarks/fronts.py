"""Suite `fronts`: seconds of an exact Pareto front.

Three fronts are timed: of a table as large as the dop space of 32 layers; of sums over a choice per
operation of the same decoder (see `layer_programs`); and of a stored run, by `opsearch front RUN`
as a process of its own. In that run, every policy of LLaVA-NeXT-7B's depth space within 30 % of the
FLOPs was measured on four samples; `imports` is the part of its seconds that Python takes to load
modules. Seconds are processor time, the fastest of five.
"""

from __future__ import annotations

import dataclasses
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

import numpy as np

from benchmarks.measuring import fastest, processor_seconds
from benchmarks.rows import BenchmarkRow

T = TypeVar("T")
_REPEATS = 5
_LOWEST, _HIGHEST = "15%", "60%"
_CHECKPOINT, _OTHER, _SAMPLES = "llava-next-7b", 65, 4


def fronts() -> Iterator[BenchmarkRow]:
    """Yield a row per table or space: seconds, and points on the front."""
    from benchmarks.layer_programs import effects, limit
    from opsearch.analysis.front import front
    from opsearch.problem.objective import Separable
    from opsearch.problem.problem import Problem
    from opsearch.problem.spaces.operations import layers_space
    from opsearch.runs.exact_front import summed_front

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
    yield _stored_run()


def _stored_run() -> BenchmarkRow:
    """Time the front of a stored run."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        known = store_run(folder)
        command = [_child_seconds("-m", "opsearch", "front", name) for _ in range(_REPEATS)]
        imports = [_child_seconds("-c", "import opsearch.commands.front") for _ in range(_REPEATS)]
        size = len((folder / "front.csv").read_text().splitlines()) - 1
    seconds = {"seconds": round(min(command), 2), "imports": round(min(imports), 2)}
    return {"of": "run", "points": known, "front": size, **seconds}


def _child_seconds(*arguments: str) -> float:
    """Return the processor time of a Python process."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def store_run(folder: Path, layers: int = 32) -> int:
    """Write a run of the depth space with random divergences; return how many policies it knows."""
    from opsearch.costs.shape import CHECKPOINTS
    from opsearch.measure.storage.records import CALIBRATION, Measurement, StoredSample
    from opsearch.measure.storage.store import Store
    from opsearch.policy.ranker import parse_ranker
    from opsearch.problem.constraint import feasible_points
    from opsearch.problem.spaces.point_policies import PointPolicies
    from opsearch.runs.config import RunConfig
    from opsearch.runs.setup import make_constraints, parse_budgets, resolve

    config = RunConfig.checked(
        space="depth", ranker="cls", objective="joint", solver="grid", out=folder
    )
    config.save(folder / "run.yaml")
    checkpoint = CHECKPOINTS[_CHECKPOINT]
    n_visual, shape = checkpoint.visual_tokens, dataclasses.replace(checkpoint.shape, layers=layers)
    space = resolve(config, layers, parse_ranker("cls")).space
    samples = [
        StoredSample(f"{i:064}", f"sample {i}", "none", n_visual, _OTHER, content=f"{i:064}")
        for i in range(_SAMPLES)
    ]
    pairs = [(s.n_visual, s.n_other) for s in samples]
    within = feasible_points(space, make_constraints(parse_budgets(("30%",)), shape, space, pairs))
    keys = PointPolicies(space, space.points[within]).canonical(n_visual)
    divergences = np.random.default_rng(0).lognormal(-3, 2, (len(keys), _SAMPLES)).tolist()
    facts = {"model_type": checkpoint.family, "shape": dataclasses.asdict(shape)}
    with Store(folder / "measurements.db", facts) as store:
        store.put_samples(CALIBRATION, samples)
        store.add(
            Measurement(key, sample.item, kl, kl, kl, 0.0)
            for key, row in sorted(zip(keys, divergences, strict=True))
            for sample, kl in zip(samples, row, strict=True)
        )
    return len(keys)


def _sums(first: Any, second: Any, third: Any) -> Any:
    """Return every sum of one entry of each."""
    return (first[:, None, None] + second[:, None] + third).ravel()


def _fastest(work: Callable[[], T]) -> tuple[T, float]:
    """Return the result of a function, and the fewest seconds that it took."""
    found, seconds = fastest(lambda: processor_seconds(work), _REPEATS)
    return found, round(seconds, 5)
