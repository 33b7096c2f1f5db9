"""A descent with what it has passed: its finalists, and a form that can be stored and resumed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from io import BytesIO
from math import ceil

import numpy as np

from opsearch.policy.counts import Shares
from opsearch.problem.problem import Problem
from opsearch.runs.relaxed import nearest_point
from opsearch.solvers.relaxed import Budgeted, DescentState, Gradient, RelaxedDescent

_SHOWN = (0.7, 0.8, 0.9, 1.0)  # parts of the descent after which its point is a finalist
_AVERAGED = 0.9  # decay of the mean of the last shares


@dataclass(frozen=True, eq=False)
class Passage:
    """A descent after some steps.

    Attributes:
        state: Its state.
        averaged: Decaying mean of the last shares, which evens out the noise of the steps.
        passed: The shares at the ends of several parts of the descent, float64[k, L, 3].
    """

    state: DescentState
    averaged: Shares
    passed: Shares

    @classmethod
    def start(cls, shares: Shares) -> Passage:
        """Return the descent before its first step."""
        return cls(DescentState.start(shares), shares, np.empty((0, *shares.shape)))

    def points(self, budget: Budgeted, problem: Problem) -> list[int]:
        """Return the finalists: the points that were passed, the latest one, and the mean."""
        found = [*self.passed, self.state.shares, budget.nearest(self.averaged)]
        return list(dict.fromkeys(nearest_point(problem, shares) for shares in found))

    def to_bytes(self) -> bytes:
        """Return everything that `from_bytes` needs."""
        state = {field.name: getattr(self.state, field.name) for field in fields(DescentState)}
        file = BytesIO()
        np.savez(file, averaged=self.averaged, passed=self.passed, **state)
        return file.getvalue()

    @classmethod
    def from_bytes(cls, stored: bytes) -> Passage:
        """Return the descent that `to_bytes` stored."""
        with np.load(BytesIO(stored), allow_pickle=False) as arrays:
            given = {field.name: arrays[field.name] for field in fields(DescentState)}
            state = DescentState(**given | {"step": int(given["step"])})
            return cls(state, arrays["averaged"], arrays["passed"])


def descended(
    descent: RelaxedDescent,
    gradient: Gradient,
    budget: Budgeted,
    begun: Passage,
    samples: int,
    seed: int,
) -> Iterator[Passage]:
    """Run the steps of a descent that are left; yield it after each one.

    Args:
        descent: Its settings.
        gradient: The gradient of the divergence.
        budget: The budget.
        begun: The descent so far.
        samples: Number of samples to draw from.
        seed: Seed of the order of the samples.
    """
    shown = {ceil(part * descent.steps) for part in _SHOWN}
    averaged, passed = begun.averaged, begun.passed
    for state in descent.run(gradient, budget, begun.state, samples, seed):
        latest = state.shares
        early = state.step <= min(shown)
        averaged = latest if early else _AVERAGED * averaged + (1 - _AVERAGED) * latest
        if state.step in shown:
            passed = np.concatenate([passed, latest[None]])
        yield Passage(state, averaged, passed)
