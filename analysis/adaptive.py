"""What a policy for each question comes to, by what chooses it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import pandas as pd

from opsearch.adaptive.choose import ChosenSet
from opsearch.adaptive.guarantee import loss_limit
from opsearch.adaptive.measured import ONE, ORIGINAL, Measured
from opsearch.adaptive.table import Choice, Part, Values, best_choice

REL_AVG, LOST = "Rel. Avg., %", "lost at most, %"


def comparison(measured: Measured, chosen: ChosenSet) -> pd.DataFrame:
    """Tabulate what chooses the policy of a question, at the same mean cost on calibration samples.

    Lines are the run's one policy, the set with its selector, the best of all policies for each
    kind of question, and the best policy for each sample, of the set and of all. Columns are the
    number of policies; cost in % of the original's and KL in nats, on calibration and on held-out
    samples; Rel. Avg. of the held-out ones in %; and the share of new answers in % that become
    worse at most, with 95 % confidence, unless the choice itself used the held-out samples.
    """
    return pd.DataFrame(dict(_lines(measured, chosen))).T


def _lines(measured: Measured, chosen: ChosenSet) -> Iterator[tuple[str, dict[str, float]]]:
    calibration, heldout = measured.calibration, measured.heldout
    one = tuple(np.full(len(part.kinds), ONE) for part in (calibration, heldout))
    yield "one policy", _line(measured, *one, unseen=True)
    own = chosen.chosen(calibration.table), chosen.chosen(heldout.table)
    yield f"set of {len(chosen.policies)}", _line(measured, *own, unseen=True)
    everything = tuple(range(len(measured.budgets)))
    of_kind = best_of_kinds(calibration, everything, measured.limit)
    if len(of_kind) > 1:
        choices = [by_kind(part, of_kind, default=ONE) for part in (calibration, heldout)]
        yield "one per kind", _line(measured, *choices, unseen=True)
    if len(chosen.policies) > 1:
        yield "best of the set", _line(measured, *_best(measured, chosen.policies), unseen=False)
    yield "best per sample", _line(measured, *_best(measured, everything), unseen=False)


def _line(
    measured: Measured, calibration: Choice, heldout: Choice, *, unseen: bool
) -> dict[str, float]:
    """Return cost, KL and scores of a choice for each sample."""
    line: dict[str, float] = {"policies": len(set(calibration.tolist()))}
    parts = ((measured.calibration, calibration), (measured.heldout, heldout))
    for name, (part, choice) in zip(("calibration", "held-out"), parts, strict=True):
        if len(choice):
            line[f"cost {name}, %"] = 100 * part.table.of(choice).cost
            line[f"KL {name}"] = float(part.kl[np.arange(len(choice)), choice].mean())
    if measured.heldout.scores is not None:
        line[REL_AVG] = relative(measured.heldout, heldout)
        if unseen:
            line[LOST] = 100 * loss_limit(lost(measured.heldout, heldout))
    return line


def relative(part: Part, choice: Choice) -> float:
    """Return Rel. Avg. in %: the mean over kinds of the mean score over the original's.

    Kinds in which the original scores 0 are excluded; nan if none is left.
    """
    assert part.scores is not None
    own, original = part.scores[np.arange(len(choice)), choice], part.scores[:, ORIGINAL]
    kinds = np.array(part.kinds)
    ratios = [
        own[kinds == kind].mean() / original[kinds == kind].mean()
        for kind in dict.fromkeys(part.kinds)
        if original[kinds == kind].any()
    ]
    return 100 * float(np.mean(ratios)) if ratios else float("nan")


def lost(part: Part, choice: Choice) -> Values:
    """Return by how much each answer is worse than the original's, 0 to 1, float64[S]."""
    assert part.scores is not None
    own = part.scores[np.arange(len(choice)), choice]
    return np.maximum(part.scores[:, ORIGINAL] - own, 0.0)


def best_of_kinds(part: Part, policies: tuple[int, ...], limit: float) -> dict[str, int]:
    """Return the policy of each kind of question that is best within the mean cost."""
    kinds, names = np.array(part.kinds), sorted(set(part.kinds))
    table = part.table.among(policies)
    loss, cost = (
        np.stack([values[kinds == name].sum(axis=0) for name in names])
        for values in (table.loss, table.cost)
    )
    found = np.array(policies)[best_choice(loss, cost, limit * len(kinds)).chosen]
    return dict(zip(names, found.tolist(), strict=True))


def by_kind(part: Part, of_kind: Mapping[str, int], default: int) -> Choice:
    """Return the policy of each sample by its kind; `default` for kinds without one."""
    return np.array([of_kind.get(kind, default) for kind in part.kinds], np.int64)


def _best(measured: Measured, policies: tuple[int, ...]) -> list[Choice]:
    """Return the best of some policies for each sample of both parts."""
    parts = (measured.calibration, measured.heldout)
    return [best_for(part, policies, measured.limit) for part in parts]


def best_for(part: Part, policies: tuple[int, ...], limit: float) -> Choice:
    """Return the best of some policies for each sample of a part, within the mean cost."""
    table = part.table.among(policies)
    found = best_choice(table.loss, table.cost, limit * len(part.kinds)).chosen
    chosen: Choice = np.array(policies)[found]
    return chosen


def by_kinds(measured: Measured, chosen: ChosenSet) -> pd.DataFrame:
    """Tabulate each kind of held-out questions: who gets which policy, cost, KL and scores.

    Policies are named by their mean cost on calibration samples; their columns are shares in %.
    """
    part = measured.heldout
    choice, kinds = chosen.chosen(part.table), np.array(part.kinds)
    costs = measured.calibration.table.among(chosen.policies).cost.mean(axis=0)
    lines, names = {}, titles(100 * costs)
    for kind in dict.fromkeys(part.kinds):
        rows = np.flatnonzero(kinds == kind)
        line: dict[str, float] = {"samples": len(rows)}
        for name, index in zip(names, chosen.policies, strict=True):
            line[name] = 100 * float((choice[rows] == index).mean())
        line["cost, %"] = 100 * float(part.table.cost[rows, choice[rows]].mean())
        line["KL"] = float(part.kl[rows, choice[rows]].mean())
        if part.scores is not None:
            line["score, %"] = 100 * float(part.scores[rows, choice[rows]].mean())
            line["original, %"] = 100 * float(part.scores[rows, ORIGINAL].mean())
        lines[kind] = line
    return pd.DataFrame(lines).T


def titles(costs: Values) -> list[str]:
    """Return a name for each policy by its mean cost in percent, with a number where two agree."""
    names = [f"policy of {cost:.3g}%" for cost in costs]
    return [
        name if names.count(name) == 1 else f"{name}, {names[: place + 1].count(name)}"
        for place, name in enumerate(names)
    ]
