"""The folder that an answer is written to: beside the other answers of a run, never over them.

The first answer of a run is in RUN itself. One of other settings, or another policy of the same
settings, gets a folder of its own, RUN/answers/NAME, with all files of a run but the measurements,
which the answers share.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from itertools import chain, count
from typing import Any

from opsearch.errors import OpsearchError, PolicyError, RunFolderError
from opsearch.policy.policy import Policy
from opsearch.runs.config import RunConfig
from opsearch.runs.results import Searched
from opsearch.runs.run_folder import RunFolder


def folder_for_run(searched: Searched, *, replace: bool) -> RunFolder:
    """Return the folder for the answer of a run that has not been searched yet.

    It is `out` of the settings, or a further one if that holds an answer of other settings or
    samples.

    Args:
        searched: The settings, all defaults resolved, and the samples.
        replace: Take `out` in any case.

    Raises:
        RunFolderError: `out` holds files of another origin, which would be overwritten.
    """
    folder = RunFolder(searched.config.out)
    if replace:
        return folder
    require_own(folder)
    candidates = chain([folder], _further(folder, _name(searched.config)))
    return next(each for each in candidates if _is_of(each, searched))


def folder_for_policy(
    folder: RunFolder, searched: Searched, policy: Policy, *, replace: bool
) -> RunFolder:
    """Return the folder for a policy that was found.

    It is `folder`, or a further one if that holds another policy: the same settings lead to another
    one if the model, opsearch or what it builds on changed.

    Args:
        folder: Where the policy was searched.
        searched: As for `folder_for_run`.
        policy: The policy.
        replace: Take `folder` in any case.
    """
    candidates = chain([folder], _further(folder, _name(searched.config)))
    return next(each for each in candidates if replace or _can_hold(each, searched, policy))


def folder_for_solution(
    searched: Searched, run: RunFolder, policy: Policy, *, replace: bool, verified: bool
) -> RunFolder:
    """Return the folder for a policy that was found from the measurements of `run`.

    It is `out` of the settings, or a further answer if that holds another policy or a comparison,
    which would not belong to this search.

    Args:
        searched: As for `folder_for_run`, which has the same errors.
        run: The folder that was solved.
        policy: The policy.
        replace: Take `out` in any case.
        verified: Policies were measured for it.
    """
    folder = RunFolder(searched.config.out)
    if replace:
        return folder
    if not folder.is_same(run):
        require_own(folder)
    kind = "verified" if verified else "solved"
    candidates = chain([folder], _further(folder, f"{kind}-{_name(searched.config)}"))
    return next(
        each
        for each in candidates
        if not each.comparison.exists() and _can_hold(each, searched, policy)
    )


def require_own(folder: RunFolder) -> None:
    """Raise RunFolderError if a folder that is not of a run holds files named like those of one."""
    if folder.measurements.exists():
        return
    try:
        RunConfig.load(folder.config)
    except RunFolderError:
        for path in folder.files:
            if path.exists():
                raise RunFolderError(
                    f"{path} would be overwritten, and {folder.path} is not the folder of a run; "
                    "choose another --out, or --replace"
                ) from None


def _further(run: RunFolder, name: str) -> Iterator[RunFolder]:
    """Yield the folders for further answers of this name: NAME, NAME-2, NAME-3, ..."""
    yield run.answer(name)
    for number in count(2):
        yield run.answer(f"{name}-{number}")


def _name(config: RunConfig) -> str:
    """Return the name of a further answer, e.g. dop-additive-ortools-30."""
    words = [config.space, config.objective, config.solver, *config.budget]
    return "-".join(re.sub(r"[^A-Za-z0-9.]+", "-", str(word)).strip("-") for word in words)


def _can_hold(folder: RunFolder, searched: Searched, policy: Policy) -> bool:
    """Return whether a policy can be written there without changing another one."""
    if not _is_of(folder, searched):
        return False
    if not folder.policy.exists():
        return True
    try:
        there = Policy.from_pretrained(folder.path)
    except PolicyError:
        return not _is_json(folder)  # a policy of a later version is one, a cut file is none
    return _acts(there) == _acts(policy)


def _acts(policy: Policy) -> tuple[Any, ...]:
    """Return all that decides how a policy acts."""
    return policy.counts, policy.unit, policy.rankers, policy.images


def _is_json(folder: RunFolder) -> bool:
    try:
        json.loads(folder.policy.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return False
    return True


def _is_of(folder: RunFolder, searched: Searched) -> bool:
    """Return whether a folder is free, or holds an answer of these settings and samples.

    A further answer that is not finished has settings, too: the same command goes on with it.
    """
    if not folder.solution.exists() and not folder.name:
        return True
    record = _record(folder)
    wanted, seen = searched.config.results_of, searched.seen
    if "settings" in record:
        same = RunConfig.checked().results_of | dict(record["settings"]) == wanted
        # Data files of equal names may hold other samples.
        return same and (seen is None or record.get("items", list(seen.items)) == list(seen.items))
    try:
        return RunConfig.load(folder.config).results_of == wanted
    except OpsearchError:
        return True  # neither record nor settings


def _record(folder: RunFolder) -> dict[str, Any]:
    """Return the record of an answer; empty if there is none, or a damaged one."""
    try:
        record = json.loads(folder.solution.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return record if isinstance(record, dict) else {}
