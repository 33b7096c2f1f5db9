"""How good policy sets of other sizes are, and how they do on kinds of questions they do not know.

All of it is computed from what `opsearch adapt` measured; no model is loaded.
"""

from __future__ import annotations

from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from opsearch.adaptive.choose import ChosenSet, choose_set
from opsearch.adaptive.guarantee import loss_limit
from opsearch.adaptive.linear import MOST
from opsearch.adaptive.measured import ONE, ORIGINAL, Measured
from opsearch.adaptive.table import Choice, Part, best_choice
from opsearch.analysis.adaptive import REL_AVG, best_for, lost, relative
from opsearch.analysis.style import COLOURS, line_style, panels
from opsearch.errors import OpsearchError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_NUMBER = 4  # of policies, as in `opsearch adapt`
_SPLITS = 200
_PART = 3  # of the held-out samples: one gives the limit of a split
_FEWEST = 20  # samples of a kind that may be left out


def tables(measured: Measured) -> dict[str, pd.DataFrame]:
    """Return the tables of sets by number, of kinds that are left out, and of limits of the loss.

    Raises:
        OpsearchError: There are no held-out samples, or too few kinds.
    """
    found = {"sets.csv": by_number(measured), "kinds_left_out.csv": shifted(measured)}
    if measured.heldout.scores is not None:
        found["limits.csv"] = limits(measured)
    return found


def by_number(measured: Measured) -> pd.DataFrame:
    """Tabulate sets of at most 1 to 8 policies, chosen on the calibration samples.

    Returns:
        `policies`: the largest number; `chosen`: how many the set has; `cost`, `kl`, and where
        there are answers `rel_avg`, of the set with its selector on held-out samples; `best_kl` and
        `best_rel_avg` of the best of its policies for each sample; `right`: share of samples in %
        that get the best policy of the set at the selector's price; `regret`: loss plus price times
        cost above that of the best one, mean; `possible`: mean loss on calibration samples of the
        set of this size that is best if each sample gets its best policy; `bound`: no set of this
        size and no choice from it is below.

    Raises:
        OpsearchError: There are no held-out samples.
    """
    _require_heldout(measured)
    most = min(MOST, len(measured.budgets))
    return pd.DataFrame([_of_number(measured, number) for number in range(1, most + 1)])


def _of_number(measured: Measured, number: int) -> dict[str, float]:
    part, chosen = measured.heldout, choose_set(measured.calibration.table, measured.limit, number)
    choice = chosen.chosen(part.table)
    best = best_for(part, chosen.policies, measured.limit)
    rows = np.arange(len(choice))
    value = part.table.loss + chosen.price * part.table.cost
    regret = value[rows, choice] - value[:, list(chosen.policies)].min(axis=1)
    line = {
        "policies": number,
        "chosen": len(chosen.policies),
        "cost": 100 * part.table.of(choice).cost,
        "kl": float(part.kl[rows, choice].mean()),
        "best_kl": float(part.kl[rows, best].mean()),
        "right": 100 * float((regret <= 0).mean()),
        "regret": float(regret.mean()),
    }
    line |= _possible(measured, number)
    if part.scores is not None:
        line |= {"rel_avg": relative(part, choice), "best_rel_avg": relative(part, best)}
    return line


def _possible(measured: Measured, number: int) -> dict[str, float]:
    """Return the least mean loss of a set of this size if each sample gets its best policy.

    All sets are compared (facility location with a budget); `bound` is the least of their bounds.
    """
    table, samples = measured.calibration.table, len(measured.calibration.kinds)
    least, bound = np.inf, np.inf
    for policies in combinations(range(len(measured.budgets)), number):
        some = table.among(policies)
        if some.cost.min(axis=1).mean() <= measured.limit:
            found = best_choice(some.loss, some.cost, measured.limit * samples)
            least = min(least, some.of(found.chosen).loss)
            bound = min(bound, found.bound / samples)
    return {"possible": least, "bound": bound}


def shifted(measured: Measured, most: int = _NUMBER) -> pd.DataFrame:
    """Tabulate each kind of question if the calibration samples have none of it.

    A set is chosen on the samples of all other kinds, within the same mean cost, and applied to the
    held-out samples of the kind; `all` is the set chosen on all kinds.

    Returns:
        Per kind the number of held-out samples, `cost` and `cost_all` in % of the original's,
        `kl` and `kl_all` in nats, and where there are answers `score`, `score_all` and `original`.
        Kinds of fewer than 20 calibration samples are left out.

    Raises:
        OpsearchError: There are no held-out samples, or fewer than three kinds.
    """
    _require_heldout(measured)
    calibration, part = measured.calibration, measured.heldout
    kinds, own = np.array(calibration.kinds), np.array(part.kinds)
    names = [kind for kind in dict.fromkeys(part.kinds) if (kinds == kind).sum() >= _FEWEST]
    if len(set(names)) < 3:
        raise OpsearchError(
            f"the samples have {len(names)} kinds of at least {_FEWEST} questions, and leaving one "
            "out takes three; give more kinds"
        )
    everything = choose_set(calibration.table, measured.limit, most).chosen(part.table)
    return pd.DataFrame(
        [
            _of_kind(
                kind,
                part,
                own == kind,
                choose_set(calibration.table.on(kinds != kind), measured.limit, most),
                everything,
            )
            for kind in names
        ]
    )


def _of_kind(
    kind: str, part: Part, members: NDArray[np.bool_], chosen: ChosenSet, everything: Choice
) -> dict[str, object]:
    """Return the line of a kind under a set that was chosen without it, and under that of all."""
    rows = np.flatnonzero(members)
    line: dict[str, object] = {"kind": kind, "samples": len(rows)}
    for suffix, choice in (("", chosen.chosen(part.table)), ("_all", everything)):
        line[f"cost{suffix}"] = 100 * float(part.table.cost[rows, choice[rows]].mean())
        line[f"kl{suffix}"] = float(part.kl[rows, choice[rows]].mean())
        if part.scores is not None:
            line[f"score{suffix}"] = 100 * float(part.scores[rows, choice[rows]].mean())
    if part.scores is not None:
        line["original"] = 100 * float(part.scores[rows, ORIGINAL].mean())
    return line


def limits(measured: Measured, most: int = _NUMBER, seed: int = 0) -> pd.DataFrame:
    """Tabulate the share of answers that become worse than the original's, and its upper limits.

    Each limit is also tried: in 200 splits a random third of the held-out samples gives a limit,
    which is compared with the loss on all of them. Splits of the same samples depend on each other,
    and a third of a finite number is closer to the rest than new samples are, so that a limit of
    95 % confidence holds somewhat more often here.

    Returns:
        A line for one policy and one for the set: `lost`, mean on held-out samples in %; `limit` of
        new samples with 95 % confidence; `held`, share of the splits in % whose limit held;
        `third`, the mean of their limits.
    """
    part = measured.heldout
    chosen = choose_set(measured.calibration.table, measured.limit, most)
    choices = {
        "one policy": np.full(len(part.kinds), ONE),
        f"set of {len(chosen.policies)}": chosen.chosen(part.table),
    }
    lines = []
    for name, choice in choices.items():
        losses, random = lost(part, choice), np.random.default_rng(seed)
        thirds = (random.permutation(len(losses))[: len(losses) // _PART] for _ in range(_SPLITS))
        tried = np.array([loss_limit(losses[rows]) for rows in thirds])
        lines.append(
            {
                "method": name,
                "lost": 100 * losses.mean(),
                "limit": 100 * loss_limit(losses),
                "held": 100 * (tried >= losses.mean()).mean(),
                "third": 100 * tried.mean(),
            }
        )
    return pd.DataFrame(lines)


def draw(numbers: pd.DataFrame, kinds: pd.DataFrame) -> Figure:
    """Draw the quality of sets over their size, and that of each kind, known and unknown."""
    figure, axes = panels(9.5, 4.8, 2)
    _draw_numbers(axes[0], numbers)
    _draw_kinds(axes[1], kinds)
    for each in axes:
        each.legend(frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.16))
    return figure


def _draw_numbers(axes: Axes, numbers: pd.DataFrame) -> None:
    scored = "rel_avg" in numbers
    columns = ("rel_avg", "best_rel_avg") if scored else ("kl", "best_kl")
    for i, (column, label) in enumerate(
        zip(columns, ("by the selector", "the best of the set for each sample"), strict=True)
    ):
        axes.plot(numbers["policies"], numbers[column], label=label, **line_style(i))
    axes.set_xlabel("largest number of policies")
    axes.set_ylabel(REL_AVG if scored else "KL, nats")
    axes.set_title("Sets of equal mean cost", fontsize="medium")


def _draw_kinds(axes: Axes, kinds: pd.DataFrame) -> None:
    """Draw a line per kind, from its value if the set knows it to that if not."""
    scored = "score" in kinds
    column = "score" if scored else "kl"
    ordered = kinds.sort_values(f"{column}_all", ascending=scored)
    places = np.arange(len(ordered))
    axes.hlines(places, ordered[f"{column}_all"], ordered[column], color="black", alpha=0.4)
    known, unknown = ordered[f"{column}_all"], ordered[column]
    axes.plot(known, places, "o", color=COLOURS[0], label="among the calibration samples")
    axes.plot(unknown, places, "s", color=COLOURS[1], label="not among them", markersize=4)
    axes.set_yticks(places, ordered["kind"])
    axes.set_xlabel("score, %" if scored else "KL, nats")
    axes.set_title("Held-out questions of a kind that is", fontsize="medium")


def describe(measured: Measured, found: dict[str, pd.DataFrame]) -> str:
    """Describe the tables in a few sentences."""
    numbers, kinds = found["sets.csv"], found["kinds_left_out.csv"]
    best = numbers.iloc[int(numbers["kl"].to_numpy().argmin())]
    text = (
        f"Mean cost {100 * measured.limit:.4g}% of the original's on calibration samples. On "
        f"held-out samples one policy has a KL of {numbers['kl'].iloc[0]:.3f} nats, a set of at "
        f"most {best['policies']:.0f} policies {best['kl']:.3f} at {best['cost']:.1f}% of the "
        f"cost; {best['right']:.0f}% of the samples get the best policy of that set."
    )
    worst = kinds.iloc[int((kinds["kl"] - kinds["kl_all"]).to_numpy().argmax())]
    text += (
        f" Of the kinds left out of the calibration samples, {worst['kind']} loses most: "
        f"{worst['kl_all']:.3f} to {worst['kl']:.3f} nats, its cost {worst['cost_all']:.1f} to "
        f"{worst['cost']:.1f}%."
    )
    for line in found.get("limits.csv", pd.DataFrame()).to_dict("records"):
        article = "" if line["method"].startswith("one") else "a "
        text += (
            f" On questions like these, {article}{line['method']} makes at most "
            f"{line['limit']:.1f}% of the answers worse, with 95% confidence "
            f"({line['lost']:.1f}% of the held-out ones; a limit from a third of them held in "
            f"{line['held']:.1f}% of {_SPLITS} splits)."
        )
    return text


def _require_heldout(measured: Measured) -> None:
    if not measured.heldout.kinds:
        raise OpsearchError(
            "the run has no held-out samples to judge a set on; search with --heldout above 0"
        )
