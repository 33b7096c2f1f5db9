"""Comparison table of a run: the original, the chosen policy and baselines at equal cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from opsearch import registry
from opsearch.costs.base import at_full_size
from opsearch.data.item import all_answered
from opsearch.evaluation.answers import (
    Answers,
    answer,
    describe_cut_answers,
    relative_average,
)
from opsearch.evaluation.tuned import choose_settings
from opsearch.measure.engine import Engine
from opsearch.models.encoding import Sample
from opsearch.policy import builders
from opsearch.policy.baseline import EVALUATIONS, SETTING, candidates, with_evaluations
from opsearch.policy.policy import Policy
from opsearch.problem.budget import total_cost
from opsearch.progress import Progress, Tick
from opsearch.runs.prepare import Prepared
from opsearch.runs.setup import make_cost


@dataclass(frozen=True)
class MeasuredPolicy:
    """A policy of the table with its measurements.

    Attributes:
        label: Name of the method.
        policy: The policy.
        costs: Mean per calibration sample and share of the original's, by name: FLOPs, those with
            the vision tower if they are known, bytes of the KV cache and the costs of the budgets.
        kl: KL on the calibration samples in nats, float64[S].
        heldout_kl: KL on the held-out samples in nats, float64[S].
        answers: Answers to the held-out questions, None if they were not scored.
        evaluations: Number of policies that were measured to choose it.
    """

    label: str
    policy: Policy
    costs: dict[str, tuple[float, float]]
    kl: NDArray[np.float64]
    heldout_kl: NDArray[np.float64]
    answers: Answers | None
    evaluations: int = 0


def compare(
    prepared: Prepared,
    chosen: Policy,
    engine: Engine,
    progress: Progress,
    evaluations: int = 0,
) -> list[MeasuredPolicy]:
    """Measure the original, the chosen policy and the baselines on calibration and held-out.

    Args:
        prepared: The search.
        chosen: Its policy.
        engine: Measures the policies.
        progress: Shows the stages.
        evaluations: Number of policies that were measured to choose it.
    """
    sizes = [sample.size for sample in prepared.calibration]
    vision = ["prefill"] if all(size.image_flops is not None for size in sizes) else []
    names = ["flops", *vision, "kv", *(constraint.name for constraint in prepared.constraints)]
    costs = {name: make_cost(name, prepared.shape, prepared.table) for name in names}

    def fits(policy: Policy) -> bool:
        limits = prepared.constraints
        return all(total_cost(costs[c.name], policy, sizes) <= c.limit for c in limits)

    layers = prepared.shape.layers
    whole = builders.identity(layers)
    policies = {
        "original": with_evaluations(whole, 0),
        "opsearch": with_evaluations(chosen, evaluations),
    }
    if prepared.images is not None and fits(whole):
        policies["smaller images"] = with_evaluations(whole, 1)
    rivals = candidates(layers, prepared.ranker, fits, nested=prepared.nested, in_run=True)
    with progress.stage("measuring the comparison", "FLOPs") as tick:

        def cost(policy: Policy) -> int:
            return total_cost(costs["flops"], policy, sizes)

        tuned = choose_settings(rivals, engine, prepared.calibration, cost, tick)
        policies |= {_named(label, policy): policy for label, policy in tuned.items()}
        kl, heldout = (
            _divergences(list(policies.values())[1:], engine, samples, tick)
            for samples in (prepared.calibration, prepared.heldout)
        )
    answers = _answers(prepared, policies, engine, progress)
    full = at_full_size(sizes)
    stock = {name: total_cost(cost, whole, full) for name, cost in costs.items()}
    rows = []
    for i, (label, policy) in enumerate(policies.items()):
        read = sizes if i else full
        totals = {name: total_cost(cost, policy, read) for name, cost in costs.items()}
        spent = {name: (total / len(sizes), total / stock[name]) for name, total in totals.items()}
        rows.append(
            MeasuredPolicy(
                label=label,
                policy=policy,
                costs=spent,
                kl=kl[i],
                heldout_kl=heldout[i],
                answers=answers.get(label),
                evaluations=policy.provenance[EVALUATIONS],
            )
        )
    return rows


def _divergences(
    policies: Sequence[Policy], engine: Engine, samples: Sequence[Sample], tick: Tick
) -> NDArray[np.float64]:
    """Return the KL of the original, which is 0, and of policies on samples, float64[1 + P, S]."""
    found = engine.measure(policies, samples, tick) if samples else np.zeros((len(policies), 0))
    return np.vstack([np.zeros((1, len(samples))), found])


def _named(label: str, policy: Policy) -> str:
    """Return a label with the setting of a policy, where there is one."""
    setting = policy.provenance.get(SETTING)
    return f"{label} {setting}" if setting else label


def table(rows: Sequence[MeasuredPolicy]) -> pd.DataFrame:
    """Return a table with methods as columns; rows are costs, evaluations, KL and scores.

    Families are indented by two spaces, so that they cannot equal the name of another row.
    """
    original = rows[0].answers
    columns = {}
    for row in rows:
        column: dict[str, float] = {}
        for name, (mean, share) in row.costs.items():
            label = registry.lookup("costs", name).label
            column |= {label.amount: mean / label.scale, label.share: 100 * share}
        column |= {
            "evaluations": row.evaluations,
            "KL calibration": float(row.kl.mean()),
            "KL held-out": float(row.heldout_kl.mean()) if row.heldout_kl.size else np.nan,
        }
        if row.answers and original:
            families = row.answers.by_family()
            column["Rel. Avg., %"] = 100 * relative_average(families, original.by_family())
            column["accuracy, %"] = 100 * float(np.mean(list(families.values())))
            if any(each.cut for one in rows if one.answers for each in one.answers.lengths):
                cut = [each.cut for each in row.answers.lengths]
                column["answers cut, %"] = 100 * float(np.mean(cut))
            column |= {f"  {name}": 100 * score for name, score in families.items()}
        columns[row.label] = column
    return pd.DataFrame(columns)


def _answers(
    prepared: Prepared, policies: Mapping[str, Policy], engine: Engine, progress: Progress
) -> dict[str, Answers]:
    """Return the answers of every policy to the held-out questions, none if some lack answers."""
    samples, processor = prepared.heldout, prepared.processor
    if not all_answered([sample.item for sample in samples]):
        unanswered = sum(not sample.item.answers for sample in samples)
        verb = "has" if unanswered == 1 else "have"
        lacking = f"{unanswered} of {len(samples)} held-out samples {verb} no answers"
        reason = lacking if samples else "there are no held-out samples"
        progress.say(f"accuracy is not measured, because {reason}")
        return {}
    found: dict[str, Answers] = {}
    longest = prepared.settings.answer_tokens
    with progress.stage(f"answering {len(samples)} held-out questions") as tick:
        full = [sample.original or sample for sample in samples]
        for number, (label, policy) in enumerate(policies.items()):
            read = samples if number else full
            found[label] = answer(
                engine.model, processor, read, policy, engine.store, answer_tokens=longest
            )
            tick(len(found), len(policies))
    titles = {"original": "the original"}
    named = {titles.get(label, label): each for label, each in found.items()}
    if cut := describe_cut_answers(named):
        progress.say(cut)
    return found
