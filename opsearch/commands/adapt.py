"""`opsearch adapt`: a few policies and a selector, from a finished run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
from rich.console import Console

from opsearch.adaptive.choose import ChosenSet, choose_set
from opsearch.adaptive.linear import MOST
from opsearch.adaptive.policy_set import PolicySet
from opsearch.adaptive.questions import question_features
from opsearch.adaptive.table import Choice, Table, Values, best_choice
from opsearch.commands.run import answered
from opsearch.console import PlainConsole
from opsearch.data.item import all_answered
from opsearch.errors import InfeasibleBudgetError, OpsearchError
from opsearch.evaluation.answers import Answers, answer, relative_average
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
_ONE, _ORIGINAL = 0, 1  # of the candidates: the policy of the run, and the original
_FEWEST = 64  # samples of which a policy is searched of their own
FOLDER = "adaptive"


@dataclass(frozen=True, eq=False)
class Adapted:
    """A policy set and what it is compared with.

    Attributes:
        policies: The set.
        comparison: One policy, the set, one policy per kind, and the best one for each sample:
            number of policies, cost and KL on calibration and held-out samples, and Rel. Avg.
        kinds: For each kind of held-out questions: the share in percent that gets each policy,
            which is named by its mean cost, and cost, KL and scores.
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


@dataclass(frozen=True, eq=False)
class _Part:
    """Samples of a run and what every policy does on them.

    Attributes:
        samples: The samples.
        table: Bounded divergences and costs.
        kl: KL in nats, float64[S, K].
    """

    samples: Sequence[Sample]
    table: Table
    kl: Values


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
        found = [candidate.policy for candidate in candidates]
        scores = _answers(found, prepared, session)
    comparison = _comparison(chosen, calibration, heldout, prepared, scores)
    adapted = Adapted(
        PolicySet(
            tuple(found[index] for index in chosen.policies),
            chosen.selector,
            _provenance(prepared, comparison),
        ),
        comparison,
        _kinds(chosen, calibration, heldout, scores),
        chosen.helps,
        out or folder / FOLDER,
    )
    adapted.policies.save_pretrained(adapted.folder)
    write_atomic(adapted.folder / "adaptive.csv", lambda file: comparison.to_csv(file))
    write_atomic(adapted.folder / "kinds.csv", lambda file: adapted.kinds.to_csv(file))
    return adapted


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
) -> tuple[list[_Candidate], _Part]:
    """Return the policies to choose from, and what they do on the calibration samples.

    They are the run's own, the original, those of other budgets, and those searched on the samples
    that get one policy of the best set of these.
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
            choose_set(part.table, _limit(prepared), most), candidates, part
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
    chosen: ChosenSet, candidates: Sequence[_Candidate], part: _Part
) -> list[tuple[Budget, list[Sample]]]:
    """Return the samples that get each policy of a set, as far as they suffice for a search."""
    choice, found = chosen.chosen(part.table), []
    for index in chosen.policies if chosen.helps else ():
        samples = [part.samples[int(row)] for row in np.flatnonzero(choice == index)]
        budget = candidates[index].budget
        if budget is not None and len(samples) >= _FEWEST:
            found.append((budget, samples))
    return found


def _measured(
    candidates: Sequence[_Candidate],
    samples: Sequence[Sample],
    prepared: Prepared,
    session: Session,
) -> _Part:
    """Measure every policy on samples."""
    policies = [candidate.policy for candidate in candidates]
    kl = np.zeros((len(samples), len(policies)))
    with session.progress.stage(f"measuring {len(policies)} policies", "FLOPs") as tick:
        if samples:
            kl = session.engine.measure(policies, samples, tick).T
    features = question_features(session.model, samples)
    table = Table(features, bounded(kl), sample_costs(prepared, policies, samples))
    return _Part(samples, table, kl)


def _answers(
    policies: Sequence[Policy], prepared: Prepared, session: Session
) -> list[Answers] | None:
    """Return the answers of every policy to the held-out questions; None if some have none."""
    samples = prepared.heldout
    if not all_answered([sample.item for sample in samples]):
        session.progress.total -= 1
        return None
    found = []
    with session.progress.stage(f"answering {len(samples)} held-out questions") as tick:
        for policy in policies:
            found.append(
                answer(
                    session.model,
                    prepared.processor,
                    samples,
                    policy,
                    session.store,
                    answer_tokens=prepared.settings.answer_tokens,
                )
            )
            tick(len(found), len(policies))
    return found


def _comparison(
    chosen: ChosenSet,
    calibration: _Part,
    heldout: _Part,
    prepared: Prepared,
    scores: Sequence[Answers] | None,
) -> pd.DataFrame:
    """Return a line for one policy, the set, one policy per kind, and the best one per sample."""
    limit = _limit(prepared)
    one = [np.full(len(part.samples), _ONE) for part in (calibration, heldout)]
    lines: dict[str, tuple[Choice, Choice]] = {
        "one policy": (one[0], one[1]),
        f"set of {len(chosen.policies)}": (
            chosen.chosen(calibration.table),
            chosen.chosen(heldout.table),
        ),
    }
    of_kind = _best_of_kinds(calibration, limit)
    if of_kind is not None:
        both = tuple(
            np.array([of_kind.get(sample.item.family, 0) for sample in part.samples], np.int64)
            for part in (calibration, heldout)
        )
        lines["one per kind"] = (both[0], both[1])
    best = [
        best_choice(part.table.loss, part.table.cost, limit * len(part.samples))
        for part in (calibration, heldout)
    ]
    lines["best per sample"] = (best[0], best[1])
    return pd.DataFrame(
        {name: _line(choices, (calibration, heldout), scores) for name, choices in lines.items()}
    ).T


def _line(
    choices: tuple[Choice, Choice], parts: tuple[_Part, _Part], scores: Sequence[Answers] | None
) -> dict[str, float]:
    """Return cost, KL and score of a choice for each sample."""
    line: dict[str, float] = {"policies": len(set(choices[0].tolist()))}
    for name, part, choice in zip(("calibration", "held-out"), parts, choices, strict=True):
        rows = np.arange(len(choice))
        if len(choice):
            line[f"cost {name}, %"] = 100 * part.table.of(choice).cost
            line[f"KL {name}"] = float(part.kl[rows, choice].mean())
    if scores is not None:
        own = [scores[index].scores[row] for row, index in enumerate(choices[1])]
        line["Rel. Avg., %"] = 100 * _relative(np.array(own), scores)
    return line


def _relative(own: Values, scores: Sequence[Answers]) -> float:
    """Return the mean over kinds of the score over the original's."""
    original, kinds = scores[_ORIGINAL].by_family(), np.array(scores[_ORIGINAL].families)
    return relative_average({kind: float(own[kinds == kind].mean()) for kind in original}, original)


def _best_of_kinds(part: _Part, limit: float) -> Mapping[str, int] | None:
    """Return the policy of each kind of question that is best within the mean cost."""
    kinds = np.array([sample.item.family for sample in part.samples])
    names = sorted(set(kinds.tolist()))
    if len(names) < 2:
        return None
    loss, cost = (
        np.stack([values[kinds == name].sum(axis=0) for name in names])
        for values in (part.table.loss, part.table.cost)
    )
    return dict(zip(names, best_choice(loss, cost, limit * len(kinds)).tolist(), strict=True))


def _kinds(
    chosen: ChosenSet, calibration: _Part, part: _Part, scores: Sequence[Answers] | None
) -> pd.DataFrame:
    """Return a line for each kind of held-out question; costs name policies as on calibration."""
    choice = chosen.chosen(part.table)
    kinds = np.array([sample.item.family for sample in part.samples])
    costs = calibration.table.among(chosen.policies).cost.mean(axis=0)
    lines, titles = {}, _titles(100 * costs)
    for name in dict.fromkeys(kinds.tolist()):
        rows = np.flatnonzero(kinds == name)
        line: dict[str, float] = {"samples": len(rows)}
        for title, index in zip(titles, chosen.policies, strict=True):
            line[title] = 100 * float((choice[rows] == index).mean())
        line["cost, %"] = 100 * float(part.table.cost[rows, choice[rows]].mean())
        line["KL"] = float(part.kl[rows, choice[rows]].mean())
        if scores is not None:
            line["score, %"] = 100 * float(
                np.mean([scores[choice[row]].scores[row] for row in rows])
            )
            line["original, %"] = 100 * float(scores[_ORIGINAL].scores[rows].mean())
        lines[name] = line
    return pd.DataFrame(lines).T


def _titles(costs: Values) -> list[str]:
    """Return a name for each policy by its mean cost in percent, with a number where two agree."""
    names = [f"policy of {cost:.3g}%" for cost in costs]
    return [
        name if names.count(name) == 1 else f"{name}, {names[: place + 1].count(name)}"
        for place, name in enumerate(names)
    ]


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
