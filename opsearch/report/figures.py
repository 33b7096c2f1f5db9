"""Figures of the page, each with a paragraph; a figure that cannot be drawn gives the reason."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from dataclasses import dataclass
from itertools import groupby

from markupsafe import Markup

from opsearch.analysis import curves, rank, transfer
from opsearch.analysis.front import draw_front
from opsearch.analysis.heatmap import shares
from opsearch.errors import OpsearchError
from opsearch.policy.counts import MODULES
from opsearch.policy.policy import Policy
from opsearch.policy.schedule import where
from opsearch.report.stored import Stored
from opsearch.report.svg import inline

_FRONT_INCHES = (5.4, 3.4)  # narrower than on paper, so that a phone shows readable labels
_OTHER_BUDGETS = (0.15, 0.2, 0.3, 0.5, 0.7)
_MOST_RANKED = 3000  # policies, so that a page takes seconds
_RANKED = 0.3  # share of the stock FLOPs to rank within, where no budget is in FLOPs
_ROLES = {"q": "attend", "kv": "are read", "mlp": "pass through the MLP"}


@dataclass(frozen=True)
class Figure:
    """A figure of the page.

    Attributes:
        title: Its title.
        svg: The drawing, None where it could not be drawn.
        text: Its paragraph, or the reason why it is missing.
    """

    title: str
    svg: Markup | None
    text: str


@dataclass(frozen=True)
class HeatMap:
    """Share of the visual tokens that the policy executes.

    Attributes:
        percent: By module, in every layer.
        words: The same in words, by what the tokens do there.
        rankers: The policy's rankers and where they rank.
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
    """Draw the front, individual divergences, proxy against joint, and transfer."""
    return [
        _or_reason("What other budgets would give", stored, _front),
        _or_reason("What each parameter costs alone", stored, _curves),
        _or_reason("How well the proxy ranks", stored, _rank),
        _or_reason("What a family loses with the policy of another", stored, _transfer),
    ]


def _or_reason(title: str, stored: Stored, make: Callable[[str, Stored], Figure]) -> Figure:
    try:
        return make(title, stored)
    except OpsearchError as error:
        return Figure(title, None, f"Not drawn: {error}.")


def _front(title: str, stored: Stored) -> Figure:
    if stored.front is None:
        raise OpsearchError(
            f"solver {stored.record['solver']} asks for single policies and leaves no front; "
            f"{_other_budgets(stored)}"
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
        f"{len(front)} policies of space {record['space']} that no other measured policy beats in "
        f"both cost and {record['objective']} objective on the calibration samples."
    )
    if elsewhere:
        text += f" Lowest {record['unit']} within other budgets: {elsewhere}."
    return Figure(title, inline(figure, "front", title), text)


def _other_budgets(stored: Stored) -> str:
    """Say how to see other budgets without a front."""
    folder = shlex.quote(str(stored.folder.path))
    space = stored.space
    if space.only_objective is not None:
        return (
            f"space {space.name} has none; `opsearch solve {folder} --budget ...` takes another "
            "budget"
        )
    if space.per_operation is not None:
        searched = " --measure 1000" if stored.config.objective == "joint" else ""
        return f"`opsearch front {folder}{searched}` finds one"
    return f"`{stored.again} --solver grid` measures all of them"


def _curves(title: str, stored: Stored) -> Figure:
    table = curves.table(stored.measured)
    return Figure(title, inline(curves.draw(table), "curves", title), curves.describe(table))


def _rank(title: str, stored: Stored) -> Figure:
    measured = stored.measured
    flops = measured.flops
    budgets = [c.limit for c in stored.constraints if c.name == flops.name]
    limit = budgets[0] if budgets else round(_RANKED * flops.stock)
    if not measured.complete[flops.listed <= limit].all():
        share = f"{100 * limit / flops.stock:.4g}%"
        raise OpsearchError(
            f"not every policy within {share} of the FLOPs was measured; "
            f"`{stored.again} --objective joint --solver grid --budget {share}` does that"
        )
    if (known := int(measured.complete.sum())) > _MOST_RANKED:
        raise OpsearchError(
            f"there are {known:,} policies, and this page ranks up to {_MOST_RANKED:,} to be made "
            f"in seconds; `opsearch analyze rank {shlex.quote(str(stored.folder.path))}` ranks them"
        )
    table = rank.table(measured)
    drawn = rank.draw(rank.policies(measured), table)
    return Figure(title, inline(drawn, "rank", title), rank.describe(table))


def _transfer(title: str, stored: Stored) -> Figure:
    table = transfer.table([stored.measured])
    drawn = inline(transfer.draw(table), "transfer", title)
    return Figure(title, drawn, transfer.describe(table))
