"""What a policy that was searched on one kind of question, or on one model, costs on another.

Families of one run are held against each other, or several runs that measured the same policies:
of two models, or of two sets of data. Only stored divergences are needed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from opsearch.analysis.bootstrap import interval, resamples
from opsearch.analysis.choice import (
    Rows,
    additive,
    choose,
    common_budgets,
    joint,
    ladder,
    within,
)
from opsearch.analysis.measured import Array, Measured
from opsearch.analysis.regret import named
from opsearch.errors import OpsearchError

ALL = "all"
"""All samples together; also the family of questions that name none."""
JOINT = "joint"
CHOSEN_BY = {JOINT: joint, "additive": additive}
"""By which divergences a source chooses; a target's own optimum is that of the joint ones."""
HALVES = 200
FEWEST = 4
"""Samples that a family needs, so that a half of them can choose."""


@dataclass(frozen=True, eq=False)
class Group:
    """Samples that choose together and are judged together; halves: which choose, bool[S, W].

    samples: which of the run's samples belong to the group, bool[S].
    """

    label: str
    run: Measured
    samples: NDArray[np.bool_]
    halves: NDArray[np.bool_]

    def whole(self) -> Array:
        """Weights of all its samples, [S, 1]."""
        return _weights(self.samples[:, None])

    def chosen(self) -> Array:
        """Weights of the samples that choose in each draw, [S, W]."""
        return _weights(self.halves & self.samples[:, None])

    def left(self) -> Array:
        """Weights of those that have no part in any choice of the draw, [S, W]."""
        return _weights(~self.halves & self.samples[:, None])


def table(runs: Sequence[Measured], seed: int = 0) -> pd.DataFrame:
    """A row per source, target, divergence that chooses and budget (% of the target's stock FLOPs).

    source: where the policy was searched, target: where it is applied; of one run its families and
    all of them together, of several runs the runs. Source and target choose within the same cost,
    the source by its joint or its additive divergences (`by`), the target by its joint ones.
    samples: of the target. policy, own: what source and target choose on all their samples; kl,
    own_kl: mean KL of both on the target's samples in nats, loss: the one minus the other, with its
    95 % bootstrap interval over samples in low and high.
    split_*: both choose on a random half of their samples and are judged on the target's other
    half, mean over 200 halves, so that the target's own choice has no advantage of having seen what
    judges it: loss in KL with the middle 95 % of the halves, and split_top1, the loss in the share
    of samples whose first answer token is the original's.
    Raises OpsearchError when there is one group only, when runs measured other policies, and when
    no budget was measured completely.
    """
    groups = _groups(runs, seed)
    budgets = common_budgets(runs)
    return pd.concat(
        [block for run in runs for block in _applied_to(run, groups, budgets, seed)],
        ignore_index=True,
    )


def _groups(runs: Sequence[Measured], seed: int) -> list[Group]:
    first, *others = runs
    if others:
        for run in others:
            _check_same_space(first, run)
        labels = _labels(runs)
        everything = [np.ones(len(run.items), bool) for run in runs]
        parts = zip(labels, runs, everything, strict=True)
        return [Group(*part, _halves(part[1], seed)) for part in parts]
    family, halves = np.array(first.families), _halves(first, seed)
    names = [
        name
        for name in dict.fromkeys(first.families)
        if name != ALL and (family == name).sum() >= FEWEST
    ]
    if len(names) < 2:
        raise OpsearchError(
            f"{first.label} has {len(names)} families of questions with at least {FEWEST} samples "
            "and transfer needs two; name families in the data, measure more --samples, or analyze "
            "two runs together"
        )
    every = Group(ALL, first, np.ones(len(family), bool), halves)
    return [*(Group(name, first, family == name, halves) for name in names), every]


def _check_same_space(first: Measured, other: Measured) -> None:
    if first.space.parameters != other.space.parameters:
        raise OpsearchError(
            f"{other.label} searched {_described(other)} and {first.label} {_described(first)}; "
            "run both with the same --space and --n-v, on models of equally many layers"
        )


def _described(run: Measured) -> str:
    sizes = ", ".join(f"{len(p.values)} values of {p.name}" for p in run.space.parameters)
    return f"{run.space.name} ({sizes})"


def _labels(runs: Sequence[Measured]) -> list[str]:
    """Names of the runs' folders; where two are equal, with their places."""
    names = [run.label for run in runs]
    return [n if names.count(n) == 1 else f"{n} ({i})" for i, n in enumerate(names, 1)]


def _halves(run: Measured, seed: int) -> NDArray[np.bool_]:
    """Half of every family, drawn anew in each column, bool[S, HALVES].

    Runs over the same items draw the same ones.
    """
    random = np.random.default_rng(seed)
    family = np.array(run.families)
    drawn = np.empty((len(family), HALVES), bool)
    for name in dict.fromkeys(run.families):
        members = np.flatnonzero(family == name)
        first = np.arange(len(members)) < len(members) // 2
        drawn[members] = random.permuted(np.tile(first, (HALVES, 1)), axis=1).T
    return drawn


def _weights(members: NDArray[np.bool_]) -> Array:
    return np.asarray(members / members.sum(axis=0))


def _applied_to(
    run: Measured, groups: Sequence[Group], budgets: Rows, seed: int
) -> Iterator[pd.DataFrame]:
    """Blocks of the table whose targets are groups of `run`."""
    rows = ladder(run)
    sizes = within(run, rows, budgets)
    rows = rows[: sizes[-1]]
    for group in groups:
        if not group.run.complete[rows].all():
            raise OpsearchError(
                f"{group.label} did not measure every policy within {budgets[-1]} % of the FLOPs "
                f"of {run.label}; run its search with a larger --budget"
            )
    choices = {by: [_choices(by, group, rows, sizes) for group in groups] for by in CHOSEN_BY}
    for target, (own, own_halves) in zip(groups, choices[JOINT], strict=True):
        if target.run is not run:
            continue
        left = target.left()[target.samples]
        kl, top1 = (run.tables[name][rows][:, target.samples] for name in ("kl", "top1"))
        judged = kl @ left, top1 @ left
        for by, source, theirs, their_halves in _everyone(groups, choices):
            columns: dict[str, Any] = {
                "source": source.label,
                "target": target.label,
                "by": by,
                "budget": budgets,
                "policy": [named(run, row) for row in rows[theirs]],
                "own": [named(run, row) for row in rows[own]],
            }
            columns |= _measured(kl, theirs, own, seed) | _split(*judged, their_halves, own_halves)
            yield pd.DataFrame(columns)


def _choices(by: str, group: Group, rows: Rows, sizes: Rows) -> tuple[Rows, Rows]:
    """What a group chooses within each budget, on all its samples [K] and on each half [K, W]."""
    whole, halves = (
        choose(CHOSEN_BY[by](group.run, rows, weights), sizes)
        for weights in (group.whole(), group.chosen())
    )
    return whole[:, 0], halves


def _everyone(
    groups: Sequence[Group], choices: Mapping[str, Sequence[tuple[Rows, Rows]]]
) -> Iterator[tuple[str, Group, Rows, Rows]]:
    """Every group with its choices, as `_choices`."""
    for by, found in choices.items():
        for group, (whole, halves) in zip(groups, found, strict=True):
            yield by, group, whole, halves


def _measured(kl: Array, theirs: Rows, own: Rows, seed: int) -> dict[str, Any]:
    """Both choices, rows of kl [N, S], on the target's samples."""
    loss = kl[theirs] - kl[own]
    low, high = interval(loss @ resamples(kl.shape[1], seed))
    return {
        "samples": kl.shape[1],
        "kl": kl[theirs].mean(axis=1),
        "own_kl": kl[own].mean(axis=1),
        "loss": loss.mean(axis=1),
        "low": low,
        "high": high,
    }


def _split(kl: Array, top1: Array, theirs: Rows, own: Rows) -> dict[str, Array]:
    """What halves choose, [K, W], judged by the means over what each draw left, kl, top1 [N, W]."""
    loss = np.take_along_axis(kl, theirs, axis=0) - np.take_along_axis(kl, own, axis=0)
    agreed = np.take_along_axis(top1, own, axis=0) - np.take_along_axis(top1, theirs, axis=0)
    low, high = interval(loss)
    return {
        "split_loss": loss.mean(axis=1),
        "split_low": low,
        "split_high": high,
        "split_top1": agreed.mean(axis=1),
    }
