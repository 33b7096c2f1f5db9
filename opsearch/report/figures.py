"""Figures of the page, each with a paragraph, or with the reason why it cannot be drawn."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from itertools import groupby
from math import floor

from markupsafe import Markup

from opsearch.analysis import curves, operations, rank, transfer
from opsearch.analysis.front import draw_front
from opsearch.analysis.heatmap import shares
from opsearch.errors import OpsearchError
from opsearch.policy.counts import MODULES
from opsearch.policy.policy import Policy
from opsearch.policy.schedule import where
from opsearch.problem.objective import PROXIES
from opsearch.report.stored import Stored
from opsearch.report.svg import inline

_FRONT_INCHES = (5.4, 3.4)  # narrower than on paper, so that labels are readable on a phone
_OTHER_BUDGETS = (0.15, 0.2, 0.3, 0.5, 0.7)
_MOST_RANKED = 3000  # policies; more would take too long for a page
_RANKED = Fraction(3, 10)  # share of the original's FLOPs to rank within if no budget is in FLOPs
_ROLES = {"q": "as queries", "kv": "as keys and values", "mlp": "in the MLP"}


@dataclass(frozen=True)
class Figure:
    """A figure of the page.

    Attributes:
        title: Its title.
        svg: The drawing, None if it could not be drawn.
        text: Its paragraph, or the reason why it is missing.
    """

    title: str
    svg: Markup | None
    text: str


@dataclass(frozen=True)
class HeatMap:
    """Share of the visual tokens that each operation of a policy processes.

    Attributes:
        percent: Percentages in every layer, by module.
        words: The same in words, by the role of the tokens.
        rankers: Rankers of the policy and the layers at which they rank.
    """

    percent: dict[str, list[float]]
    words: dict[str, str]
    rankers: tuple[str, ...]


def heat_map(policy: Policy) -> HeatMap:
    """Return the policy's heat map, without dead operations."""
    table = dict(zip(MODULES, 100 * shares(policy), strict=True))
    rankers = tuple(f"{spec} {where(layer, spec)}" for layer, spec in policy.rankers)
    return HeatMap(
        {name: row.tolist() for name, row in table.items()},
        {_ROLES[name]: _in_words(row.tolist()) for name, row in table.items()},
        rankers,
    )


def _in_words(row: list[float]) -> str:
    """Describe runs of equal shares, e.g. "50 % in layers 0 to 8, none in layers 9 to 11"."""
    parts, start = [], 0
    for share, run in groupby(row):
        end = start + len(list(run)) - 1
        layers = f"layers {start} to {end}" if end > start else f"layer {start}"
        parts.append(f"{f'{share:.3g} %' if share else 'none'} in {layers}")
        start = end + 1
    return ", ".join(parts)


def figures(stored: Stored) -> list[Figure]:
    """Draw the front, the KL of each parameter alone, proxy against joint, and transfer.

    In spaces with a parameter per operation, whose policies are too many to compare with each
    other, the page has the front and the KL of each operation alone, as far as they are known.
    """
    if _by_operation(stored):
        return [_front_or_step("Other budgets", stored), *_operations(stored)]
    return [
        _or_reason("Other budgets", stored, _front),
        _or_reason("KL of each parameter alone", stored, _curves),
        _or_reason("Proxy against measured KL", stored, _rank),
        _or_reason("Policies of one family on the others", stored, _transfer),
    ]


def _or_reason(title: str, stored: Stored, make: Callable[[str, Stored], Figure]) -> Figure:
    try:
        return make(title, stored)
    except OpsearchError as error:
        return Figure(title, None, f"Not drawn: {error}.")


def _by_operation(stored: Stored) -> bool:
    """Return whether the space is known to have a parameter per operation, too many to list."""
    try:
        return stored.space.per_operation is not None
    except OpsearchError:  # a space that was given as an object
        return False


def _front_or_step(title: str, stored: Stored) -> Figure:
    """Draw the front that `opsearch front` wrote, or name the next step."""
    if stored.front is None:
        step = _other_budgets(stored)
        return Figure(title, None, f"{step[0].upper()}{step[1:]}.")
    return _front(title, stored)


def _operations(stored: Stored) -> list[Figure]:
    """Draw the KL of each operation alone, where it was measured."""
    title = "KL of each operation alone"
    try:
        table = operations.table(stored.measured_alone)
    except OpsearchError:
        return []
    drawn = inline(operations.draw(table), "operations", title)
    return [Figure(title, drawn, operations.describe(table))]


def _front(title: str, stored: Stored) -> Figure:
    if stored.front is None:
        raise OpsearchError(
            f"solver {stored.record['solver']} does not compute a front; {_other_budgets(stored)}"
        )
    front, constraint, record = stored.front, stored.constraints[0], stored.record
    figure = draw_front(front, constraint, record["objective"], record["unit"])
    figure.set_size_inches(_FRONT_INCHES)
    share, value = front["share"].to_numpy(), front["value"].to_numpy()
    budgets = [b for b in _OTHER_BUDGETS if share.min() <= b <= share.max()]
    elsewhere = "; ".join(
        f"{value[share <= budget].min():.3f} at {100 * budget:.0f} %" for budget in budgets
    )
    text = (
        f"{len(front)} policies of space {record['space']} for which no other "
        f"{'' if _by_operation(stored) else 'measured '}policy has both lower cost and a lower "
        f"{record['objective']} objective on the calibration samples."
    )
    if not record.get("complete", True):
        text += (
            " Only policies measured on all samples are shown; the others were dropped because "
            f"they cannot be the best within the budget: `{stored.again} --complete` measures them."
        )
    if elsewhere:
        text += f" Lowest objective at other budgets, in {record['unit']}: {elsewhere}."
    return Figure(title, inline(figure, "front", title), text)


def _other_budgets(stored: Stored) -> str:
    """Return the next step for other budgets if there is no front."""
    folder = shlex.quote(str(stored.folder.path))
    space = stored.space
    if space.only_objective is not None:
        return (
            f"space {space.name} has no front; use `opsearch solve {folder} --budget ...` for "
            "other budgets"
        )
    if space.per_operation is not None:
        objective = stored.settings.objective
        summed = objective is None or objective.form in PROXIES
        searched = "" if summed else " --measure 1000"
        return f"use `opsearch front {folder}{searched}`"
    return f"use `{stored.again} --solver grid`, which measures all policies"


def _curves(title: str, stored: Stored) -> Figure:
    table = curves.table(stored.measured)
    return Figure(title, inline(curves.draw(table), "curves", title), curves.describe(table))


def _rank(title: str, stored: Stored) -> Figure:
    measured = stored.measured
    flops = measured.flops
    budgets = [c.limit for c in stored.constraints if c.name == flops.name]
    limit = budgets[0] if budgets else floor(_RANKED * flops.stock)
    if not measured.complete[flops.listed <= limit].all():
        share = f"{100 * limit / flops.stock:.4g}%"
        raise OpsearchError(
            f"not all policies within {share} of the FLOPs were measured; use "
            f"`{stored.again} --objective joint --solver grid --budget {share} --complete`"
        )
    if (known := int(measured.complete.sum())) > _MOST_RANKED:
        raise OpsearchError(
            f"this page compares at most {_MOST_RANKED:,} policies, and {known:,} were measured; "
            f"use `opsearch analyze rank {shlex.quote(str(stored.folder.path))}`"
        )
    table = rank.table(measured)
    drawn = rank.draw(rank.policies(measured), table)
    return Figure(title, inline(drawn, "rank", title), rank.describe(table))


def _transfer(title: str, stored: Stored) -> Figure:
    table = transfer.table([stored.measured])
    drawn = inline(transfer.draw(table), "transfer", title)
    return Figure(title, drawn, transfer.describe(table))
