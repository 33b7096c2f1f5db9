"""The command to try after a search that lost to a baseline."""

from __future__ import annotations

import shlex

from opsearch.runs.config import IN_MEMORY, RunConfig
from opsearch.runs.effort import LEAST_EFFORT
from opsearch.runs.run_folder import RunFolder

# Settings that define the problem, not the way it is searched.
_KEPT = (
    *("model", "dtype", "device", "attention", "data", "heldout", "seed", "budget"),
    *("images", "keep", "positions", "memory", "answer_tokens", "out"),
)


def next_step(config: RunConfig, folder: RunFolder) -> str:
    """Return a command that may find a better policy; empty if the samples came from Python.

    It is the default search, or that with twice the effort.

    Args:
        config: Settings of the search, all defaults resolved.
        folder: The folder of its answer.
    """
    if str(config.data) == IN_MEMORY:
        return ""
    if config.searches_shares:
        given = {"config": folder.config, "effort": f"{2 * (config.effort or LEAST_EFFORT):g}"}
    else:
        settings = config.model_dump(mode="json")
        usual = RunConfig.checked(model=config.model).model_dump(mode="json")
        usual["model"] = RunConfig.model_fields["model"].default
        settings["images"], usual["images"] = (",".join(m["images"]) for m in (settings, usual))
        given = {name: settings[name] for name in _KEPT if settings[name] != usual[name]}
    words = ["opsearch", "run"]
    for name, value in given.items():
        for each in value if isinstance(value, list) else [value]:
            words += [f"--{name.replace('_', '-')}", str(each)]
    return shlex.join(words)
