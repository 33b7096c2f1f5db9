"""Transfer of policies: loss of a policy that was searched on another family, model or data.

Families of one run are compared, or several runs that measured the same policies: of two models,
or of two data sets. Only stored divergences are needed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from opsearch.analysis.bootstrap import interval, resamples
from opsearch.analysis.choice import Rows, additive, choose, common_budgets, joint, ladder, within
from opsearch.analysis.measured import Array, Measured
from opsearch.analysis.regret import point_name
from opsearch.errors import OpsearchError

ALL = "all"
"""All samples together; also the family of questions without one."""
JOINT = "joint"
CHOSEN_BY = {JOINT: joint, "additive": additive}
"""Objectives by which a source chooses; the optimum of a target is by the joint one."""
HALVES = 200
FEWEST = 4
"""Least number of samples of a family."""


@dataclass(frozen=True, eq=False)
class Group:
    """Samples on which a policy is chosen and evaluated.

    Attributes:
        label: Name of the group.
        run: The run that measured it.
        samples: The run's samples that belong to the group, bool[S].
        halves: Samples of the run to choose on in each of W draws, bool[S, W].
    """

    label: str
    run: Measured
    samples: NDArray[np.bool_]
    halves: NDArray[np.bool_]

    def whole(self) -> Array:
        """Return the weights of all samples, [S, 1]."""
        return _weights(self.samples[:, None])

    def chosen(self) -> Array:
        """Return the weights of the samples to choose on in each draw, [S, W]."""
        return _weights(self.halves & self.samples[:, None])

    def left(self) -> Array:
        """Return the weights of the samples to evaluate on in each draw, [S, W]."""
        return _weights(~self.halves & self.samples[:, None])


def table(runs: Sequence[Measured], seed: int = 0) -> pd.DataFrame:
    """Tabulate the loss per source, target, choosing objective and budget.

    `source` is where the policy was searched, `target` where it is applied: families of one run and
    all of them together, or several runs. Both choose within the same cost, the source by its joint
    or additive divergences (`by`), the target by its joint ones.

    Returns:
        `budget` in % of the target's stock FLOPs; `samples` of the target; `policy`, `own`: the
        choices of source and target on all their samples; `kl`, `own_kl`: mean KL of both on the
        target's samples in nats; `loss`: their difference, with its 95 % bootstrap interval over
        samples in `low` and `high`. `split_*`: both choose on a random half of their samples and
        are evaluated on the target's other half, mean over 200 halves, so that the target's own
        choice has no advantage: loss in KL with the middle 95 % of the halves, and `split_top1`,
        the loss in the share of samples whose first answer token equals the original's.

    Raises:
        OpsearchError: There is one group only, the runs measured different policies, or no budget
            was measured completely.
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
    whole = Group(ALL, first, np.ones(len(family), bool), halves)
    return [*(Group(name, first, family == name, halves) for name in names), whole]


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
    """Return the names of the runs' folders, numbered where two are equal."""
    names = [run.label for run in runs]
    return [n if names.count(n) == 1 else f"{n} ({i})" for i, n in enumerate(names, 1)]


def _halves(run: Measured, seed: int) -> NDArray[np.bool_]:
    """Draw half of every family in each column, bool[S, HALVES].

    Runs over the same items draw the same halves.
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
    """Yield the blocks of the table whose targets are groups of `run`."""
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
        evaluated = kl @ left, top1 @ left
        for by, source, chosen, chosen_halves in _all_choices(groups, choices):
            columns: dict[str, Any] = {
                "source": source.label,
                "target": target.label,
                "by": by,
                "budget": budgets,
                "policy": [point_name(run, row) for row in rows[chosen]],
                "own": [point_name(run, row) for row in rows[own]],
            }
            columns |= _measured(kl, chosen, own, seed)
            columns |= _split(*evaluated, chosen_halves, own_halves)
            yield pd.DataFrame(columns)


def _choices(by: str, group: Group, rows: Rows, sizes: Rows) -> tuple[Rows, Rows]:
    """Return a group's choices within each budget, on all samples [K] and on each half [K, W]."""
    whole, halves = (
        choose(CHOSEN_BY[by](group.run, rows, weights), sizes)
        for weights in (group.whole(), group.chosen())
    )
    return whole[:, 0], halves


def _all_choices(
    groups: Sequence[Group], choices: Mapping[str, Sequence[tuple[Rows, Rows]]]
) -> Iterator[tuple[str, Group, Rows, Rows]]:
    """Yield every choosing objective and group with its choices, see `_choices`."""
    for by, found in choices.items():
        for group, (whole, halves) in zip(groups, found, strict=True):
            yield by, group, whole, halves


def _measured(kl: Array, chosen: Rows, own: Rows, seed: int) -> dict[str, Any]:
    """Compare both choices, rows of kl [N, S], on the target's samples."""
    loss = kl[chosen] - kl[own]
    low, high = interval(loss @ resamples(kl.shape[1], seed))
    return {
        "samples": kl.shape[1],
        "kl": kl[chosen].mean(axis=1),
        "own_kl": kl[own].mean(axis=1),
        "loss": loss.mean(axis=1),
        "low": low,
        "high": high,
    }


def _split(kl: Array, top1: Array, chosen: Rows, own: Rows) -> dict[str, Array]:
    """Compare choices of halves [K, W] by means over each draw's other half, kl, top1 [N, W]."""
    loss = np.take_along_axis(kl, chosen, axis=0) - np.take_along_axis(kl, own, axis=0)
    agreed = np.take_along_axis(top1, own, axis=0) - np.take_along_axis(top1, chosen, axis=0)
    low, high = interval(loss)
    return {
        "split_loss": loss.mean(axis=1),
        "split_low": low,
        "split_high": high,
        "split_top1": agreed.mean(axis=1),
    }
