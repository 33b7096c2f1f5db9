"""`opsearch adapt`: a few policies and a selector, from a finished run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from rich.console import Console

from opsearch.adaptive import DEFAULT_SELECTOR
from opsearch.adaptive.choose import choose_set
from opsearch.adaptive.features import make_features
from opsearch.adaptive.linear import MOST
from opsearch.adaptive.measured import FOLDER, Measured
from opsearch.adaptive.policy_set import PolicySet
from opsearch.analysis import adaptive
from opsearch.commands.adapt_candidates import Candidates
from opsearch.console import PlainConsole
from opsearch.errors import OpsearchError
from opsearch.files import write_atomic
from opsearch.policy.policy import Policy
from opsearch.progress import Progress
from opsearch.runs.adaptive import other_budgets
from opsearch.runs.config import RunConfig
from opsearch.runs.prepare import Prepared, prepare, settle
from opsearch.runs.run_folder import RunFolder
from opsearch.runs.session import open_session

_STAGES = 5  # encoding, loading the model, measuring twice, answering


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


def adapt(
    folder: Path,
    *,
    policies: int = 4,
    selector: str = DEFAULT_SELECTOR,
    out: Path | None = None,
    console: Console | None = None,
) -> Adapted:
    """Search policies of other budgets, and choose a few of them and a selector.

    The mean cost over the run's calibration samples keeps to its budget. Searches and measurements
    are stored in the run folder, so that the same command, started again, goes on.

    Args:
        folder: A run folder.
        policies: Largest number of policies.
        selector: What the choice reads of a request, see `opsearch.adaptive.features`.
        out: Folder for the set; None: `adaptive` in the run folder.
        console: Console for progress; None: standard error.

    Raises:
        OpsearchError: The run or its budget cannot be used.
    """
    check_number(policies, "--policies")
    features, run = make_features(selector), RunFolder(folder)
    settled = settle(RunConfig.load(run.config).changed(out=folder))
    progress = Progress(console or PlainConsole(stderr=True), _STAGES)
    prepared = prepare(settled, progress)
    others = other_budgets(prepared)
    own = Policy.from_pretrained(run.policy)
    with open_session(prepared, run, progress, continued=True) as session:
        search = Candidates(prepared, session, selector, features)
        candidates, calibration = search.search(own, others)
        heldout = search.judged(candidates)
    limit = float(prepared.settings.budgets[0].amount)
    chosen = choose_set(calibration.table, limit, policies)
    budgets = tuple(each.budget.text if each.budget else "" for each in candidates)
    measured = Measured(limit, budgets, calibration, heldout)
    comparison = adaptive.comparison(measured, chosen)
    policies_of_set = PolicySet(
        tuple(candidates[index].policy for index in chosen.policies),
        chosen.selector,
        _provenance(prepared, comparison),
        _kinds(measured, chosen.policies),
    )
    kinds, target = adaptive.by_kinds(measured, chosen), out or folder / FOLDER
    policies_of_set.save_pretrained(target)
    measured.save(target)
    write_atomic(target / "adaptive.csv", lambda file: comparison.to_csv(file))
    write_atomic(target / "kinds.csv", lambda file: kinds.to_csv(file))
    return Adapted(policies_of_set, comparison, kinds, chosen.helps, target)


def _kinds(measured: Measured, policies: tuple[int, ...]) -> dict[str, int]:
    """Return the policy of the set for each kind of calibration samples; none for a single kind."""
    found = adaptive.best_of_kinds(measured.calibration, policies, measured.limit)
    if len(found) < 2:
        return {}
    return {kind: policies.index(policy) for kind, policy in found.items()}


def check_number(policies: int, option: str) -> None:
    """Raise OpsearchError unless a set may have this many policies."""
    if not 2 <= policies <= MOST:
        raise OpsearchError(f"{option} {policies} is not a number from 2 to {MOST}; give one")


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
