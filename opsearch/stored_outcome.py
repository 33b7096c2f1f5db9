"""Reads what a run chose, for the analyses; loads no model."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd

from opsearch.analysis.outcomes import Outcome
from opsearch.config import RunConfig
from opsearch.errors import RunFolderError
from opsearch.run_folder import RunFolder


def stored_outcome(folder: Path) -> Outcome:
    """The record and the final table of the run in `folder`.

    Raises RunFolderError where one of them is missing or cannot be read.
    """
    run = RunFolder(folder)
    RunConfig.load(run.config)  # which says so where the folder is no run at all
    try:
        record = json.loads(run.solution.read_text(encoding="utf-8"))
        comparison = pd.read_csv(run.comparison, index_col=0)
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise RunFolderError(
            f"{folder} holds no finished run ({reason}); `opsearch run --config {run.config}` "
            "finishes it"
        ) from error
    return Outcome(folder.name, record, comparison)
