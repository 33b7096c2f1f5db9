"""The default search: gradient descent on token shares, against every baseline.

A part of the calibration samples is kept from the descent. The points that it passes are compared
on that part. The best one races against the baselines at all settings of their knobs on all
samples, so that the answer is at least as good as each of them there.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from statistics import mean
from time import perf_counter
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from opsearch.costs.base import SampleSize, stock_cost
from opsearch.formatting import counted, screen_repr
from opsearch.measure.engine import Engine, SampleMeasure
from opsearch.measure.relaxed.gradient import RelaxedDivergence
from opsearch.models.encoding import Sample
from opsearch.objectives.racing import race
from opsearch.objectives.rounding import lazy_joint
from opsearch.policy.baseline import candidates
from opsearch.policy.builders import identity
from opsearch.policy.policy import Policy
from opsearch.problem.budget import total_cost
from opsearch.problem.objective import KL_QUANTUM, Blackbox, in_quanta, rounded_mean
from opsearch.problem.problem import Problem
from opsearch.problem.solution import Solution, Status, solution_at
from opsearch.problem.spaces.base import ListedSpace, Parameter
from opsearch.progress import Progress, Tick
from opsearch.rankers import make_ranker
from opsearch.runs.descent import Passage, descended
from opsearch.runs.prepare import Prepared
from opsearch.runs.relaxed import START, budget_of_shares, plan_descent, seen_samples
from opsearch.runs.setup import make_constraints, make_cost
from opsearch.solvers.gradient import GradientDescent
from opsearch.solvers.interrupts import interrupts
from opsearch.solvers.relaxed import Budgeted, RelaxedDescent

IMAGES_ALONE = "smaller images alone"
"""Name of the policy that prunes nothing, as the answer at an image setting."""
_STORED_EVERY = 5.0  # seconds between writes of the state of a descent


@dataclass(frozen=True)
class _Entry:
    """A policy in the race.

    Attributes:
        policy: The policy.
        point: Its number in the space of shares; None: a baseline.
    """

    policy: Policy
    point: int | None = None

    @property
    def method(self) -> str:
        """Name of the method that found the policy."""
        if self.point is not None:
            return "gradient descent on token shares"
        facts = self.policy.provenance
        return f"{facts['baseline']} {facts['setting']}".strip()


@dataclass(frozen=True)
class _OnePolicy(ListedSpace):
    """The policy of a baseline, which may rank inside the decoder or count in tokens."""

    policy: Policy
    name: ClassVar[str] = "baselines"
    parameters: ClassVar[tuple[Parameter, ...]] = ()

    __repr__ = screen_repr

    @property
    def num_layers(self) -> int:
        """Number of decoder layers."""
        return self.policy.num_layers

    @property
    def points(self) -> NDArray[np.int64]:
        """The only row, which has no values."""
        return np.zeros((1, 0), np.int64)

    def decode(self, point: Sequence[int]) -> Policy:
        """Return the policy."""
        return self.policy


def portfolio(prepared: Prepared, engine: Engine, progress: Progress) -> tuple[Problem, Solution]:
    """Search the policy of lowest KL in token shares and among the baselines.

    Ctrl-C ends the descent, and what it has found so far is compared. The same search, started
    again, goes on from there.

    Args:
        prepared: The search.
        engine: Measures policies, and holds the model.
        progress: Shows the stages.

    Returns:
        The problem in the space of the answer, and the solution.
    """
    started, samples = perf_counter(), prepared.calibration
    space = prepared.settings.space
    joint = lazy_joint(space, SampleMeasure(engine, samples), KL_QUANTUM)
    problem = Problem(space, joint, prepared.constraints)
    with progress.stage("gradient descent on token shares") as tick:
        points, undone = _descend(prepared, engine, problem, tick)
    with progress.stage("racing its policies against baselines", "FLOPs") as tick:
        floor = engine.noise_floor(samples, tick)
        passed = [_Entry(space.decode(space.row(point)), point) for point in points]
        finalist = passed[_best_unseen(passed, engine, samples, tick)]
        entries = [finalist, *map(_Entry, _baselines(prepared))]
        table = _raced(entries, SampleMeasure(engine, samples, tick), floor)
    # A tie goes to the descent, which comes first.
    best = int(np.nanargmin(in_quanta(table.mean(axis=1), floor)))
    problem, point = _stated(entries[best], problem, prepared)
    known = Blackbox("joint", "nats", lambda points: rounded_mean(table[[best] * len(points)]))
    solution = solution_at(
        replace(problem, objective=known),
        point,
        Status.FEASIBLE,
        GradientDescent.name,
        evaluations=len(passed) + len(entries) - 1,
        seed=prepared.settings.seed,
        seconds=perf_counter() - started,
        note=_note(entries, best, len(passed)),
        stopped=undone > 0,
    )
    if undone:
        left = f"the descent was stopped with {undone} of its steps left"
        note = f"{solution.note}; {left}; the same search goes on from there"
        solution = replace(solution, note=note)
    return problem, solution


def _descend(
    prepared: Prepared, engine: Engine, problem: Problem, tick: Tick
) -> tuple[list[int], int]:
    """Return the points that a descent passes, and the number of steps left when Ctrl-C came.

    Its state is stored every few seconds, so that the same search goes on from there.
    """
    settings = prepared.settings
    kept = prepared.calibration[: seen_samples(len(prepared.calibration))]
    ranker = make_ranker(prepared.ranker)
    memory = int(engine.memory_budget.memory)
    gradient = RelaxedDivergence(engine.passes.originals, kept, ranker, memory)
    budget = _budget(prepared)
    descent = plan_descent(prepared.effort_estimate, settings.effort).descent
    search, stored = _search_key(prepared, descent, gradient.samples), perf_counter()
    begun = engine.store.descent(search)
    start = np.tile(START, (prepared.shape.layers, 1))
    begin = Passage.from_bytes(begun) if begun else Passage.start(start)
    passage, samples = begin, len(gradient.samples)
    if begin.state.step < descent.steps:
        gradient.prepare()
        tick(begin.state.step, descent.steps)
    with interrupts() as stop:
        for passage in descended(descent, gradient, budget, begin, samples, settings.seed):
            tick(passage.state.step, descent.steps)
            if stop.is_set():
                break
            if perf_counter() - stored > _STORED_EVERY:
                engine.store.put_descent(search, passage.to_bytes())
                stored = perf_counter()
    engine.store.put_descent(search, passage.to_bytes())
    return passage.points(budget, problem), descent.steps - passage.state.step


def _budget(prepared: Prepared) -> Budgeted:
    """Return the budgets of a search, counted on a sample of mean size."""
    own = [sample.size._replace(original=None) for sample in prepared.calibration]
    costs = [make_cost(c.name, prepared.shape, prepared.table) for c in prepared.constraints]
    limits = [
        c.limit / stock_cost(cost, own) for c, cost in zip(prepared.constraints, costs, strict=True)
    ]
    layers, kept = prepared.shape.layers, prepared.settings.space_settings.keep or ()
    size = _mean_size(prepared.calibration)
    return budget_of_shares(list(zip(costs, limits, strict=True)), layers, size, kept)


def _mean_size(samples: Sequence[Sample]) -> SampleSize:
    """Return the mean size, of at least one visual token; of unknown images if some are."""
    n_visual, n_other = (round(mean(n)) for n in zip(*(s.shape for s in samples), strict=True))
    known = [s.image_flops for s in samples if s.image_flops is not None]
    images = sum(known) // len(samples) if len(known) == len(samples) else None
    return SampleSize(max(n_visual, 1), n_other, images)


def _search_key(prepared: Prepared, descent: RelaxedDescent, samples: Sequence[Sample]) -> str:
    """Return a digest of everything but the model on which the steps of a descent depend."""
    settings = prepared.settings
    limits = [(each.name, each.limit, each.stock) for each in prepared.constraints]
    kept = sorted(settings.space_settings.keep or ())
    facts = [asdict(descent), START, settings.seed, str(prepared.ranker), limits, kept]
    facts.append([sample.digest for sample in samples])
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def _baselines(prepared: Prepared) -> list[Policy]:
    """Return the candidates of the baselines of a run's table, at all settings of their knobs.

    With an image setting that is within the budgets by itself, to prune nothing is one of them.
    """
    sizes = [sample.size for sample in prepared.calibration]
    costs = [make_cost(c.name, prepared.shape, prepared.table) for c in prepared.constraints]

    def fits(policy: Policy) -> bool:
        limits = (constraint.limit for constraint in prepared.constraints)
        return all(
            total_cost(cost, policy, sizes) <= limit
            for cost, limit in zip(costs, limits, strict=True)
        )

    found = candidates(
        prepared.shape.layers, prepared.ranker, fits, nested=prepared.nested, in_run=True
    )
    baselines = [policy for policies in found.values() for policy in policies]
    whole = identity(prepared.shape.layers)
    if prepared.images is not None and fits(whole):
        facts = {"baseline": IMAGES_ALONE, "setting": ""}
        baselines.append(replace(whole, name=IMAGES_ALONE, provenance=facts))
    return baselines


def _best_unseen(
    passed: Sequence[_Entry], engine: Engine, samples: Sequence[Sample], tick: Tick
) -> int:
    """Return the best policy on the samples that the descent did not see."""
    unseen = samples[seen_samples(len(samples)) :] or samples
    measured = SampleMeasure(engine, unseen, tick)([entry.policy for entry in passed])
    return int(measured.mean(axis=1).argmin())


def _raced(entries: Sequence[_Entry], measure: SampleMeasure, floor: float) -> NDArray[np.float64]:
    """Return the KL of each entry on each sample, nan where it is not measured.

    The first entry and the best have all.
    """
    policies = [entry.policy for entry in entries]
    first = measure(policies[:1])  # tells which samples are hard
    known = np.full((len(policies), first.shape[1]), np.nan)
    known[0] = first

    def some(rows: NDArray[np.int64], columns: NDArray[np.int64]) -> NDArray[np.float64]:
        return measure.on([policies[row] for row in rows], columns.tolist())

    hardest = np.argsort(-first[0], kind="stable").tolist()
    return race(some, known, hardest, quantum=floor)


def _stated(entry: _Entry, problem: Problem, prepared: Prepared) -> tuple[Problem, int]:
    """Return a problem whose space holds the policy of an entry, and its point there."""
    if entry.point is not None:
        return problem, entry.point
    space = _OnePolicy(entry.policy)
    sizes = [sample.size for sample in prepared.calibration]
    limits = make_constraints(
        prepared.settings.budgets, prepared.shape, space, sizes, prepared.table
    )
    return replace(problem, space=space, constraints=limits), 0


def _note(entries: Sequence[_Entry], best: int, passed: int) -> str:
    """Say where the answer came from, and what it was compared with."""
    return (
        f"found by {entries[best].method}; the best of {counted(passed, 'policy', 'policies')} of "
        f"the descent raced against {len(entries) - 1} of the baselines, all knobs tried"
    )
