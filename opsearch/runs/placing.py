"""Where an answer is written: beside those that a run folder holds, never over them.

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
from opsearch.runs.run_folder import RunFolder


def place_of_run(config: RunConfig, *, replace: bool) -> RunFolder:
    """Return the folder for the answer of a run that has not been searched yet.

    It is `config.out`, or a further one if that holds an answer of other settings.

    Args:
        config: The settings, all defaults resolved.
        replace: Take `config.out` in any case.

    Raises:
        RunFolderError: `config.out` holds files of another origin, which would be overwritten.
    """
    folder = RunFolder(config.out)
    if replace:
        return folder
    _require_own(folder)
    places = chain([folder], _further(folder, _name(config)))
    return next(place for place in places if _settings(place) in (None, config.results_of))


def place_of_policy(
    folder: RunFolder, config: RunConfig, policy: Policy, *, replace: bool, name: str = ""
) -> RunFolder:
    """Return the folder for a policy that was found.

    It is `folder`, or a further one if that holds another policy: the same settings lead to another
    one if the model, opsearch or what it builds on changed.

    Args:
        folder: Where the policy was searched.
        config: The settings, all defaults resolved.
        policy: The policy.
        replace: Take `folder` in any case.
        name: Name of a further answer; empty: by the settings.
    """
    places = chain([folder], _further(folder, name or _name(config)))
    return next(place for place in places if replace or _takes(place, config, policy))


def place_of_solution(
    config: RunConfig, run: RunFolder, policy: Policy, *, replace: bool
) -> RunFolder:
    """Return the folder for a policy that was found from the stored measurements of `run`.

    It is `config.out`, or a further answer if that holds another policy, or is the run itself and
    holds any, whose comparison stays with it. Arguments and errors are otherwise as above.
    """
    name = f"solved-{_name(config)}"
    if config.out == run.path and not replace:
        places = chain([] if _policy(run) else [run], _further(run, name))
        return next(place for place in places if _takes(place, config, policy))
    folder = place_of_run(config, replace=replace)
    return place_of_policy(folder, config, policy, replace=replace, name=name)


def _further(run: RunFolder, name: str) -> Iterator[RunFolder]:
    """Yield the folders for further answers of this name: NAME, NAME-2, NAME-3, ..."""
    yield run.answer(name)
    for number in count(2):
        yield run.answer(f"{name}-{number}")


def _name(config: RunConfig) -> str:
    """Return the name of a further answer, e.g. dop-additive-ortools-30."""
    words = [config.space, config.objective, config.solver, *config.budget]
    return "-".join(re.sub(r"[^A-Za-z0-9.]+", "-", str(word)).strip("-") for word in words)


def _takes(place: RunFolder, config: RunConfig, policy: Policy) -> bool:
    """Return whether a policy can be written there without changing another one."""
    if _settings(place) not in (None, config.results_of):
        return False
    there = _policy(place)
    return there is None or _content(there) == _content(policy)


def _content(policy: Policy) -> tuple[Any, ...]:
    """Return what a policy does, without its name and its origin."""
    return policy.counts, policy.unit, policy.rankers


def _policy(place: RunFolder) -> Policy | None:
    """Return the policy of an answer; None if there is none, or a damaged one."""
    try:
        return Policy.from_pretrained(place.path)
    except PolicyError:
        return None


def _settings(folder: RunFolder) -> dict[str, Any] | None:
    """Return the settings of the answer in a folder; None if it holds none, or a damaged one.

    A further answer that is not finished has settings, too: the same command goes on with it.
    """
    try:
        if folder.solution.exists():
            record = json.loads(folder.solution.read_text(encoding="utf-8"))
            if "settings" in record:
                return RunConfig.checked().results_of | dict(record["settings"])
        elif not folder.name:
            return None
        return RunConfig.load(folder.config).results_of
    except (OSError, ValueError, TypeError, OpsearchError):
        return None


def _require_own(folder: RunFolder) -> None:
    """Raise RunFolderError if a folder that is not of a run holds files named like those of one."""
    if folder.measurements.exists():
        return
    try:
        RunConfig.load(folder.config)
    except RunFolderError:
        names = ("config", "policy", "solution", "comparison", "report", "front", "environment")
        figures = ("policy_figure", "front_figure", "latency")
        for path in (getattr(folder, name) for name in (*names, *figures)):
            if path.exists():
                raise RunFolderError(
                    f"{path} would be overwritten, and {folder.path} is not the folder of a run; "
                    "choose another --out, or --replace"
                ) from None
