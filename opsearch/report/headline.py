"""Headline of a run: a title, a few numbers and a few sentences."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pandas as pd

from opsearch import registry
from opsearch.formatting import counted, format_amount
from opsearch.problem.constraint import Constraint
from opsearch.report.stored import Stored
from opsearch.report.verdict import (
    ACCURACY,
    CHOSEN,
    NOTHING_RIGHT,
    ORIGINAL,
    RELATIVE,
    better_baselines,
    cell,
    nothing_right,
    proxy_warning,
)
from opsearch.runs.next_step import next_step


@dataclass(frozen=True)
class Fact:
    """A number of the headline.

    Attributes:
        name: Its name.
        value: Its formatted value.
        context: Value to compare it with.
    """

    name: str
    value: str
    context: str


@dataclass(frozen=True)
class Headline:
    """The first screen of the page.

    Attributes:
        title: Saved cost, and lost accuracy if known.
        facts: Costs and quality of the policy.
        status: How the solve ended, in a few words.
        proof: Meaning of the status.
        notes: Further sentences.
    """

    title: str
    facts: tuple[Fact, ...]
    status: str
    proof: str
    notes: tuple[str, ...]


def headline(stored: Stored) -> Headline:
    """Summarize the chosen policy; without a comparison, by cost and objective only."""
    record = stored.record
    facts = [
        _cost(constraint, record["costs"][constraint.name], budget, stored.environment)
        for constraint, budget in zip(stored.constraints, record["budget"], strict=True)
    ]
    value = f"{record['value']:.6f} {record['unit']}"
    bound = "" if record["bound"] is None else f", lower bound {record['bound']:.6f}"
    proof = (
        f"{record['sentence']} Value of the {record['objective']} objective: {value}{bound}; "
        f"solver: {record['solver']}."
    )
    notes = [*_found_by(record), *([f"Note: {record['note']}."] if record["note"] else [])]
    ended = record.get("ended", record["status"])  # earlier versions knew the status alone
    if stored.comparison is None:
        rounded = f"{record['value']:.3f} {record['unit']}"
        facts.append(Fact(f"{record['objective']} objective", rounded, "on calibration samples"))
        notes.append(
            "This policy was not compared yet, so its loss on held-out samples is unknown."
        )
    else:
        facts += _losses(stored.comparison)
        rivals = better_baselines(stored.comparison)
        notes.append(
            f"At the same budget, {rivals}.{_try_next(stored)}"
            if rivals
            else "No baseline at the same budget is better in KL or Rel. Avg."
        )
        if nothing_right(stored.comparison):
            notes.append(f"{NOTHING_RIGHT[0].upper()}{NOTHING_RIGHT[1:]}.")
        warning = proxy_warning(ended, record["value"], record["unit"], stored.comparison)
        notes += [f"{warning[0].upper()}{warning[1:]}."] if warning else []
    return Headline(_title(stored), tuple(facts), ended, proof, tuple(notes))


def _try_next(stored: Stored) -> str:
    """Return the command that may find a better policy, as a sentence."""
    step = next_step(stored.config, stored.folder)
    return f" `{step}` may find a better policy." if step else ""


def _found_by(record: dict[str, Any]) -> list[str]:
    """Say how the policy was found; empty for the record of an earlier version."""
    if "measured" not in record:
        return []
    words = [f"Found in space {record['space']}"]
    if record["verify"]:
        words.append(f"the proxy corrected by true measurements, {record['verify']} at a time")
    if record["measured"]:
        words.append(f"{counted(record['measured'], 'policy', 'policies')} measured for it")
    else:
        words.append("from stored measurements")
    effort = f", effort {record['effort']:g} s" if record["effort"] else ""
    drawn = f"on draw {record['draw']} of {counted(record['samples'], 'calibration sample')}"
    return [f"{', '.join(words)} {drawn}{effort}."]


def _title(stored: Stored) -> str:
    """Return the saved cost, and the lost accuracy if known."""
    first = stored.constraints[0]
    saved = 100 * (1 - stored.record["costs"][first.name] / first.stock)
    title = f"{saved:.1f}\u00a0% less {_words(first.name)}"
    frame = stored.comparison
    if frame is None or ACCURACY not in frame.index or nothing_right(frame):
        return title
    original, chosen = (frame[name].to_dict()[ACCURACY] for name in (ORIGINAL, CHOSEN))
    lost = f"{original - chosen:.1f}"
    return (
        f"{title}, {lost}\u00a0points less accuracy"
        if chosen < original
        else f"{title}, no loss of accuracy"
    )


def _cost(
    constraint: Constraint, cost: int, budget: str, environment: dict[str, Any] | None
) -> Fact:
    """Return the policy's cost; with a predicted time, also the measured one if known."""
    used, stock = (
        format_amount(amount / constraint.samples, constraint.unit)
        for amount in (cost, constraint.stock)
    )
    context = f"{used} of {stock} per sample, budget {budget}"
    if constraint.vision is not None:
        share = 100 * constraint.vision.other_share(cost, constraint.stock)
        context += f"; {share:.1f} % {constraint.vision.other_words}"
    if constraint.timed:
        real = (environment or {}).get("prefill_ms")
        context = f"predicted {context}"
        if real:
            context += f"; real {real['real']:.4g} of {real['original_real']:.4g} ms"
    return Fact(_words(constraint.name), f"{100 * cost / constraint.stock:.1f} %", context)


def _words(cost: str) -> str:
    """Return the name of a cost in sentences."""
    words: str = registry.lookup("costs", cost).label.words
    return words or cost


def _losses(frame: pd.DataFrame) -> list[Fact]:
    """Return the quality of the policy from the comparison."""
    original, chosen = (
        {str(row): cell(str(row), value) for row, value in frame[name].to_dict().items()}
        for name in (ORIGINAL, CHOSEN)
    )
    facts = []
    if ACCURACY in chosen:
        context = f"original: {original[ACCURACY]} %"
        facts.append(Fact("accuracy, held-out", f"{chosen[ACCURACY]} %", context))
    if ACCURACY in chosen and not nothing_right(frame):
        context = "of the original's accuracy, mean over families"
        facts.append(Fact("Rel. Avg., held-out", f"{chosen[RELATIVE]} %", context))
    heldout, calibration = chosen["KL held-out"], chosen["KL calibration"]
    facts.append(
        Fact("KL, calibration", f"{calibration} nats", "no held-out samples")
        if heldout == "-"
        else Fact("KL, held-out", f"{heldout} nats", f"{calibration} on calibration samples")
    )
    return facts
