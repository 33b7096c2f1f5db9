"""`opsearch adapt`: a few policies and a selector, from a finished run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
from rich.console import Console

from opsearch.adaptive.choose import ChosenSet, choose_set
from opsearch.adaptive.linear import MOST
from opsearch.adaptive.measured import FOLDER, Measured
from opsearch.adaptive.policy_set import PolicySet
from opsearch.adaptive.questions import question_features
from opsearch.adaptive.table import Part, Table
from opsearch.analysis import adaptive
from opsearch.commands.run import answered
from opsearch.console import PlainConsole
from opsearch.data.item import all_answered
from opsearch.errors import InfeasibleBudgetError, OpsearchError
from opsearch.evaluation.answers import answer
from opsearch.files import write_atomic
from opsearch.formatting import counted
from opsearch.measure.relaxed.gradient import bounded
from opsearch.models.encoding import Sample
from opsearch.policy.builders import identity
from opsearch.policy.policy import Policy
from opsearch.problem.budget import Budget
from opsearch.progress import Progress
from opsearch.runs.adaptive import other_budgets, sample_costs
from opsearch.runs.config import RunConfig
from opsearch.runs.prepare import Prepared, at_budget, prepare, settle
from opsearch.runs.run_folder import RunFolder
from opsearch.runs.session import Session, open_session
from opsearch.solvers.gradient import GradientDescent

_STAGES = 5  # encoding, loading the model, measuring twice, answering
_FEWEST = 64  # samples of which a policy is searched of their own


@dataclass(frozen=True, eq=False)
class Adapted:
    """A policy set and what it is compared with.

    Attributes:
        policies: The set.
        comparison: What chooses the policy of a question, see `opsearch.analysis.adaptive`.
        kinds: What each kind of held-out questions gets, see there.
        helps: False if the set is one policy, because no selector was better on unseen samples.
        folder: Where the set is.
    """

    policies: PolicySet
    comparison: pd.DataFrame
    kinds: pd.DataFrame
    helps: bool
    folder: Path


@dataclass(frozen=True)
class _Candidate:
    """A policy to choose from.

    Attributes:
        policy: The policy.
        budget: The budget that it was searched for; None: the original.
    """

    policy: Policy
    budget: Budget | None = None


def adapt(
    folder: Path,
    *,
    policies: int = 4,
    out: Path | None = None,
    console: Console | None = None,
) -> Adapted:
    """Search policies of other budgets, and choose a few of them and a selector.

    The mean cost over the run's calibration samples keeps to its budget. Searches and measurements
    are stored in the run folder, so that the same command, started again, goes on.

    Args:
        folder: A run folder.
        policies: Largest number of policies.
        out: Folder for the set; None: `adaptive` in the run folder.
        console: Console for progress; None: standard error.

    Raises:
        OpsearchError: The run or its budget cannot be used.
    """
    if not 2 <= policies <= MOST:
        raise OpsearchError(f"--policies {policies} is not a number from 2 to {MOST}; give one")
    run = RunFolder(folder)
    settled = settle(RunConfig.load(run.config).changed(out=folder))
    progress = Progress(console or PlainConsole(stderr=True), _STAGES)
    prepared = prepare(settled, progress)
    others = _within_reach(prepared, progress)
    own = Policy.from_pretrained(run.policy)
    with open_session(prepared, run, progress, continued=True) as session:
        candidates, calibration = _searched_all(own, others, policies, prepared, session)
        chosen = choose_set(calibration.table, _limit(prepared), policies)
        heldout = _measured(candidates, prepared.heldout, prepared, session)
        heldout = _answered(candidates, heldout, prepared, session)
    budgets = tuple(each.budget.text if each.budget else "" for each in candidates)
    measured = Measured(_limit(prepared), budgets, calibration, heldout)
    comparison = adaptive.comparison(measured, chosen)
    policies_of_set = PolicySet(
        tuple(candidates[index].policy for index in chosen.policies),
        chosen.selector,
        _provenance(prepared, comparison),
    )
    kinds, target = adaptive.by_kinds(measured, chosen), out or folder / FOLDER
    policies_of_set.save_pretrained(target)
    measured.save(target)
    write_atomic(target / "adaptive.csv", lambda file: comparison.to_csv(file))
    write_atomic(target / "kinds.csv", lambda file: kinds.to_csv(file))
    return Adapted(policies_of_set, comparison, kinds, chosen.helps, target)


def _within_reach(prepared: Prepared, progress: Progress) -> list[Budget]:
    """Return the other budgets that some policy of the space keeps, and say which are left out."""
    return [each for each in other_budgets(prepared) if _is_possible(prepared, each, progress)]


def _is_possible(
    prepared: Prepared, budget: Budget, progress: Progress, samples: Sequence[Sample] | None = None
) -> bool:
    try:
        at_budget(prepared, budget, samples)
    except InfeasibleBudgetError as error:
        progress.say(f"a policy of {budget.text} is left out: {error}")
        return False
    return True


def _limit(prepared: Prepared) -> float:
    return float(prepared.settings.budgets[0].amount)


def _searched_all(
    own: Policy, others: Sequence[Budget], most: int, prepared: Prepared, session: Session
) -> tuple[list[_Candidate], Part]:
    """Return the policies to choose from, and what they do on the calibration samples.

    They are the run's own, the original, those of other budgets, and those searched on the samples
    that get one policy of the best set of these; the first two in the order of `Measured`.
    """
    stages = 1 + isinstance(prepared.choice.solver, GradientDescent)
    session.progress.total += stages * len(others)
    whole = replace(identity(prepared.shape.layers), model_type=prepared.model_type)
    candidates = [_Candidate(own, prepared.settings.budgets[0]), _Candidate(whole)]
    candidates += (_searched(prepared, budget, session) for budget in others)
    part = _measured(candidates, prepared.calibration, prepared, session)
    groups = [
        (budget, samples)
        for budget, samples in _groups(
            choose_set(part.table, _limit(prepared), most), candidates, part, prepared.calibration
        )
        if _is_possible(prepared, budget, session.progress, samples)
    ]
    if not groups:
        return candidates, part
    session.progress.total += stages * len(groups) + 1
    candidates += (_searched(prepared, budget, session, samples) for budget, samples in groups)
    return candidates, _measured(candidates, prepared.calibration, prepared, session)


def _searched(
    prepared: Prepared, budget: Budget, session: Session, samples: Sequence[Sample] | None = None
) -> _Candidate:
    """Return the policy of another budget, searched on all or on some of the samples.

    Ctrl-C ends a descent with what it has; here it ends the command, which goes on there.
    """
    on = "" if samples is None else f", for {counted(len(samples), 'sample')} that would get it"
    session.progress.say(f"a policy of {budget.text}{on}:")
    _, solution, _ = answered(at_budget(prepared, budget, samples), session)
    if solution.stopped:
        raise KeyboardInterrupt
    assert solution.policy is not None  # answered() raises otherwise
    return _Candidate(replace(solution.policy, model_type=prepared.model_type), budget)


def _groups(
    chosen: ChosenSet, candidates: Sequence[_Candidate], part: Part, samples: Sequence[Sample]
) -> list[tuple[Budget, list[Sample]]]:
    """Return the samples that get each policy of a set, as far as they suffice for a search."""
    choice, found = chosen.chosen(part.table), []
    for index in chosen.policies if chosen.helps else ():
        own = [samples[int(row)] for row in np.flatnonzero(choice == index)]
        budget = candidates[index].budget
        if budget is not None and len(own) >= _FEWEST:
            found.append((budget, own))
    return found


def _measured(
    candidates: Sequence[_Candidate],
    samples: Sequence[Sample],
    prepared: Prepared,
    session: Session,
) -> Part:
    """Measure every policy on samples."""
    policies = [candidate.policy for candidate in candidates]
    kl = np.zeros((len(samples), len(policies)))
    with session.progress.stage(f"measuring {len(policies)} policies", "FLOPs") as tick:
        if samples:
            kl = session.engine.measure(policies, samples, tick).T
    features = question_features(session.model, samples)
    table = Table(features, bounded(kl), sample_costs(prepared, policies, samples))
    return Part(table, kl, tuple(sample.item.family for sample in samples))


def _answered(
    candidates: Sequence[_Candidate], part: Part, prepared: Prepared, session: Session
) -> Part:
    """Return held-out samples with the scores of every policy's answers; as they are without."""
    samples = prepared.heldout
    if not samples or not all_answered([sample.item for sample in samples]):
        session.progress.total -= 1
        return part
    found = []
    with session.progress.stage(f"answering {len(samples)} held-out questions") as tick:
        for candidate in candidates:
            answers = answer(
                session.model,
                prepared.processor,
                samples,
                candidate.policy,
                session.store,
                answer_tokens=prepared.settings.answer_tokens,
            )
            found.append(answers.scores)
            tick(len(found), len(candidates))
    return replace(part, scores=np.stack(found, axis=1))


def _provenance(prepared: Prepared, comparison: pd.DataFrame) -> dict[str, object]:
    """Return what readers of the file want to know."""
    found = comparison.iloc[1]
    return {
        "budget": prepared.settings.budgets[0].text,
        "model": prepared.config.model,
        "samples": len(prepared.calibration),
        "seed": prepared.settings.seed,
        **{str(name): float(value) for name, value in found.items() if np.isfinite(value)},
    }
