"""Suite `racing`: the joint objective by racing against complete measurement, embedded model.

Each row measures the policies of a space within a budget by racing, with the policies that tell the
hardest samples, and in `dop` also completely, into empty stores. `forwards` are FLOPs in forwards
of the original per sample, planned for complete measurement; `seconds` are processor time; `same`
says that both find the same policy, proved, at the same value.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from rich.console import Console

from benchmarks.measuring import new_engine, processor_seconds
from benchmarks.rows import BenchmarkRow
from opsearch.costs.flops import Flops
from opsearch.measure.engine import SampleMeasure
from opsearch.objectives.joint import Joint
from opsearch.problem.objective import KL_QUANTUM
from opsearch.problem.problem import Problem
from opsearch.problem.solution import Solution
from opsearch.progress import Progress
from opsearch.runs.config import RunConfig
from opsearch.runs.prepare import Prepared, prepare, settle
from opsearch.solvers.grid import Grid

_SEEDS, _BUDGETS = range(3), ("15%", "20%", "30%")
_SAMPLES, _FEW = 64, 4


def racing(tiny: bool) -> Iterator[BenchmarkRow]:
    """Yield a row per space, budget and draw of samples; `tiny`: one on a few samples."""
    for space in ("dop",) if tiny else ("dop", "depth"):
        for budget in reversed(_BUDGETS[:1] if tiny else _BUDGETS):
            for seed in _SEEDS[: 1 if tiny or space == "depth" else None]:
                config = RunConfig(
                    space=space,
                    budget=(budget,),
                    seed=seed,
                    samples=_FEW if tiny else _SAMPLES,
                    heldout=0,
                    n_v="8" if tiny else "16",
                )
                yield _row(config)


def _row(config: RunConfig) -> BenchmarkRow:
    prepared = prepare(settle(config), Progress(Console(quiet=True), 1))
    model = prepared.settings.model.load()
    raced = _measured(prepared, model, Joint(race=KL_QUANTUM))
    planned = prepared.effort_estimate.joint
    row = {
        "space": config.space,
        "budget": config.budget[0],
        "seed": config.seed,
        "policies": planned.policies,
        "forwards_complete": round(planned.forwards, 1),
        "forwards_raced": round(raced.forwards, 1),
        "share": round(raced.forwards / planned.forwards, 3),
        "seconds_raced": round(raced.seconds, 2),
        "kl": raced.solution.value,
        "status": str(raced.solution.status),
    }
    if config.space == "dop":
        complete = _measured(prepared, model, Joint())
        row["seconds_complete"] = round(complete.seconds, 2)
        row["same"] = _same(raced.solution, complete.solution)
    return row


def _same(found: Solution, best: Solution) -> bool:
    """Return whether two solutions are the same policy, equally proved."""
    assert found.value is not None
    assert best.value is not None
    near = abs(found.value - best.value) < 2 * KL_QUANTUM  # passes of other sizes round differently
    return near and (found.policy, found.status) == (best.policy, best.status)


@dataclass(frozen=True)
class _Measured:
    """The optimum of an objective and the work for it."""

    solution: Solution
    forwards: float
    seconds: float


class _Work:
    """Sums the FLOPs of several measurements, each of which reports what it has done."""

    def __init__(self) -> None:
        self.flops, self._last = 0, (0, 0)

    def __call__(self, done: int, total: int) -> None:
        before, goal = self._last
        new = done < before or total != goal  # the first report of the next measurement
        self.flops += done - (0 if new else before)
        self._last = done, total


def _measured(prepared: Prepared, model: Any, objective: Joint) -> _Measured:
    work, samples, space = _Work(), prepared.calibration, prepared.settings.space
    with new_engine(model) as engine:
        measure = SampleMeasure(engine, samples, work)
        feasible = prepared.effort_estimate.feasible
        table, seconds = processor_seconds(lambda: objective.make(space, measure, feasible))
    stock = sum(Flops(prepared.shape).stock(*sample.shape) for sample in samples)
    solution = Grid().solve(Problem(space, table, prepared.constraints))
    return _Measured(solution, work.flops / stock, seconds)
