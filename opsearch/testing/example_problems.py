"""Small search problems over real spaces with exact costs, for tests of solvers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from itertools import combinations
from math import floor

import numpy as np
from numpy.typing import NDArray

from opsearch.costs.flops import Flops
from opsearch.costs.kv import KVBytes
from opsearch.costs.shape import Shape
from opsearch.policy.counts import KV, MLP, Q, live
from opsearch.problem.constraint import Constraint
from opsearch.problem.objective import (
    Blackbox,
    Bounded,
    Form,
    Objective,
    Pairwise,
    Separable,
    Table,
)
from opsearch.problem.problem import Problem
from opsearch.problem.spaces.base import Space
from opsearch.problem.spaces.depth import depth_space, dop_space, tokens_space
from opsearch.problem.spaces.operation_costs import operation_costs
from opsearch.problem.spaces.operations import OperationSpace, layers_space
from opsearch.problem.spaces.recipes import RecipeCosts, RecipeSpace

N_V_TEST = tuple(Fraction(v) for v in ("1", ".6", ".3", ".1"))
SCALES = (1e-9, 1e-6, 1e-3, 1.0, 1e3)
SAMPLES = ((24, 11), (31, 5))  # visual and other tokens of two samples
TINY = Shape(
    layers=4,
    hidden=16,
    heads=4,
    kv_heads=2,
    head_dim=4,
    intermediate=40,
    vocab=50,
    kv_bytes_per_element=2,
)


VAST = Shape(
    layers=126,
    hidden=16384,
    heads=128,
    kv_heads=8,
    head_dim=128,
    intermediate=53248,
    vocab=128256,
)
"""A dense decoder of 400 B weights."""
VAST_SAMPLES = ((100_000, 10_000),) * 9_000 + ((99_991, 9_973),) * 1_000


def flops_like(space: Space, samples: Sequence[tuple[int, int]] = SAMPLES) -> NDArray[np.int64]:
    """Return a cost like a decoder's FLOPs at every point, summed over samples, int64[P].

    It includes the dead operations of the original model, which runs them.
    """
    total = np.zeros(len(space.points), np.int64)
    for visual, other in samples:
        counts = space.resolved(space.points, visual)
        original = (counts == visual).all(axis=(1, 2), keepdims=True)
        rows = np.where(original, counts, live(counts)) + other
        q, kv, mlp = rows[..., Q], rows[..., KV], rows[..., MLP]
        total += (128 * (q + kv) + 4 * q * kv + 192 * mlp).sum(axis=-1)
    return total


def kv_like(space: Space, samples: Sequence[tuple[int, int]] = SAMPLES) -> NDArray[np.int64]:
    """Return a cost like the KV cache's bytes at every point, summed over samples, int64[P]."""
    total = np.zeros(len(space.points), np.int64)
    for visual, _ in samples:
        total += 64 * live(space.resolved(space.points, visual))[..., KV].sum(axis=-1)
    return total


def budget(name: str, costs: NDArray[np.int64], share: float) -> Constraint:
    """Return the constraint at `share` of the way from the lowest to the highest cost."""
    lowest, highest = int(costs.min()), int(costs.max())
    limit = lowest + int(share * (highest - lowest))
    return Constraint(name, "units", costs, limit, stock=highest, samples=len(SAMPLES))


def random_space(random: np.random.Generator, *, layers: int = 5) -> Space:
    """Return a random space among tokens, dop in both readings and depth, of up to `layers`."""
    depth = int(random.integers(1, layers + 1))
    shares = N_V_TEST[: int(random.integers(1, 5))]
    kind = random.integers(4)
    if kind == 0:
        return tokens_space(depth, shares)
    if kind == 1:
        return depth_space(min(depth, 4), shares)
    return dop_space(depth, shares, kv="leaves" if kind == 2 else "stays")


def random_terms(
    random: np.random.Generator, space: Space, scale: float, quantum: float
) -> tuple[NDArray[np.float64], ...]:
    """Return random terms that mostly fall along each parameter, in multiples of `quantum`."""
    terms = []
    for parameter in space.parameters:
        size = len(parameter.values)
        term = scale * (np.linspace(1, 0, size) ** 2 + 0.2 * random.random(size))
        terms.append(quantum * np.rint(term / quantum) if quantum else term)
    return tuple(terms)


def random_problem(
    seed: int, *, scale: float = 1.0, exact_ties: bool = True, layers: int = 5, budgets: int = 1
) -> Problem:
    """Return a random problem with separable terms and up to two budgets.

    Args:
        seed: Seed of the problem.
        scale: Scale of the values.
        exact_ties: True if values are multiples of scale / 50, so that many are equal; otherwise
            the quantum is 0.
        layers: Largest number of layers.
        budgets: Number of budgets, at most 2.
    """
    random = np.random.default_rng(seed)
    space = random_space(random, layers=layers)
    quantum = scale / 50 if exact_ties else 0.0
    terms = random_terms(random, space, scale, quantum)
    objective = Separable("random", "nats", space, terms, quantum)
    costs = {"flops": flops_like(space), "kv": kv_like(space)}
    names = list(costs)[:budgets]
    limits = tuple(budget(name, costs[name], random.uniform(0.05, 0.95)) for name in names)
    return Problem(space, objective, limits)


def vast(problem: Problem) -> Problem:
    """Return the problem with costs far beyond 64 bits, whose last digits break its ties.

    A limit is exactly the largest cost within it.
    """
    random = np.random.default_rng(len(problem.space.points))
    limits = []
    for constraint in problem.constraints:
        listed = constraint.listed
        digits = random.permutation(len(listed)).astype(object)
        costs = listed.astype(object) * 10**22 + digits
        limit = int(costs[listed <= constraint.limit].max())
        limits.append(replace(constraint, costs=costs, limit=limit, stock=int(costs.max())))
    return problem.with_budget(limits)


def oracle(problem: Problem) -> int | None:
    """Return the best point by a plain loop over value, cost and row; None if infeasible."""
    objective, best = problem.objective, None
    for index in np.flatnonzero(problem.feasible).tolist():
        value = objective.value(index)
        if not np.isnan(value):
            key = round(value / objective.quantum) if objective.quantum else value
            row = tuple(problem.space.points[index].tolist())
            candidate = (key, int(problem.cost[index]), row, index)
            best = candidate if best is None else min(best, candidate)
    return None if best is None else best[3]


def random_pairs(seed: int) -> Problem:
    """Return a random problem over dop with interactions of both signs."""
    random = np.random.default_rng(seed)
    space = dop_space(4, N_V_TEST, kv="stays" if seed % 2 else "leaves")
    terms = random_terms(random, space, 1.0, 0.01)
    pairs = {
        ((k, i), (m, j)): round(float(random.normal(0, 0.2)), 2)
        for k, m in combinations(range(len(terms)), 2)
        for i in range(len(terms[k]) - 1)
        for j in range(len(terms[m]) - 1)
        if random.random() < 0.5
    }
    objective = Pairwise(
        name="pairs", unit="nats", space=space, terms=terms, pairs=pairs, quantum=0.01
    )
    return Problem(space, objective, (budget("flops", flops_like(space), 0.5),))


def as_form(problem: Problem, form: Form) -> Problem:
    """Return the problem with its separable objective in another form."""
    objective = problem.objective
    assert isinstance(objective, Separable)
    other: Objective = objective
    if form == "table":
        other = Table(objective.name, objective.unit, objective.values, objective.quantum)
    elif form == "pairwise":
        space, terms = objective.space, objective.terms
        other = Pairwise(
            name=objective.name,
            unit=objective.unit,
            space=space,
            terms=terms,
            pairs={},
            quantum=objective.quantum,
        )
    elif form == "blackbox":

        def evaluate(indices: Sequence[int]) -> NDArray[np.float64]:
            return np.array([objective.value(index) for index in indices])

        other = Blackbox(objective.name, objective.unit, evaluate, objective.quantum)
    elif form == "bounded":
        other = Bounded(objective.name, objective.unit, lambda bound: 0, objective.value)
    return replace(problem, objective=other)


def layers_problem(
    seed: int,
    space: OperationSpace | None = None,
    share: float = 0.4,
    form: Form = "blackbox",
    scale: float = 1.0,
    shape: Shape = TINY,
    samples: Sequence[tuple[int, int]] = SAMPLES,
) -> Problem:
    """Return a problem with one parameter per operation, falling terms and random interactions.

    In form separable, it has no interactions.
    """
    random = np.random.default_rng(seed)
    space = space or layers_space(4, N_V_TEST)
    sizes = [len(parameter.values) for parameter in space.parameters]
    terms = tuple(scale * np.sort(random.exponential(size=size).round(1))[::-1] for size in sizes)
    pairs = {
        ((k, 0), (m, 0)): scale * round(float(random.normal(0, 0.5)), 1)
        for k, m in combinations(range(len(sizes)), 2)
        if random.random() < 0.3
    }
    quantum = 1e-6 * scale
    summed: Objective = Pairwise(
        name="pairs", unit="nats", space=space, terms=terms, pairs=pairs, quantum=quantum
    )
    if form == "separable":
        summed = Separable("terms", "nats", space, terms, quantum)

    def evaluate(points: Sequence[int]) -> NDArray[np.float64]:
        return np.array([summed.value(point) for point in points])

    costs = operation_costs(Flops(shape), space, samples)
    stock = costs[costs.dearest()]
    limit = Constraint(
        name="flops",
        unit="FLOPs",
        costs=costs,
        limit=floor(Fraction(share) * stock),
        stock=stock,
        samples=len(samples),
    )
    on_request = Blackbox("pairs", "nats", evaluate, quantum)
    return Problem(space, on_request if form == "blackbox" else summed, (limit,))


def recipes_problem(seed: int, share: float = 0.7) -> Problem:
    """Return a problem over recipes in which a bound limits the tokens that each layer loses.

    Its budgets of FLOPs and KV are at `share` of the way from the rule's cheapest point to the
    original.
    """
    random = np.random.default_rng(seed)
    space = RecipeSpace(TINY.layers)
    most = random.uniform(0.2, 1.0, space.num_layers)  # share removed at bound 1

    def within(bound: float) -> int:
        return space.index_of([floor(1000 * (1 - bound * gone) + 0.5) for gone in most])

    def evaluate(index: int) -> float:
        left = np.array(space.row(index)) / space.row(within(0.0))
        return float(((1 - left) / np.maximum.accumulate(most)).max())

    limits = []
    for cost in (Flops(TINY), KVBytes(TINY)):
        costs = RecipeCosts(space, cost, Counter(SAMPLES))
        low, high = costs[within(1.0)], costs[within(0.0)]
        limits.append(
            Constraint(
                name=cost.name,
                unit=cost.unit,
                costs=costs,
                limit=low + int(share * (high - low)),
                stock=high,
                samples=len(SAMPLES),
            )
        )
    return Problem(space, Bounded("rule", "of the tokens", within, evaluate), tuple(limits))
