"""Rendering of report.html from the files of a run and the template in this folder."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pandas as pd
from markupsafe import Markup, escape

from opsearch.errors import OpsearchError
from opsearch.files import write_text
from opsearch.report.changed import changed_answers
from opsearch.report.figures import figures, heat_map
from opsearch.report.headline import headline
from opsearch.report.stored import Stored, read_stored
from opsearch.report.templates import templates
from opsearch.report.verdict import CHOSEN, best_methods, cell
from opsearch.runs.run_folder import RunFolder


def save_report(folder: Path, out: Path | None = None) -> Path:
    """Write the page of a run folder and return its path; equal files give equal pages.

    Args:
        folder: The run folder.
        out: Folder of the page; None: the run folder.

    Raises:
        RunFolderError: The folder holds no results, or damaged ones.
    """
    stored = read_stored(folder)
    environment = templates()
    environment.filters["commands"] = _commands
    page = environment.get_template("page.html").render(
        stored=stored,
        headline=headline(stored),
        heat_map=heat_map(stored.policy),
        figures=figures(stored),
        comparison=_comparison(stored.comparison),
        changed=_changed(stored),
        settings=stored.config.model_dump(mode="json"),
    )
    return write_text(RunFolder(out or folder).report, page)


def _commands(text: str) -> Markup:
    """Escape a sentence, with text in backticks set as code."""
    return Markup(re.sub("`([^`]+)`", r"<code>\1</code>", str(escape(text))))


def _comparison(frame: pd.DataFrame | None) -> dict[str, Any] | None:
    """Format the comparison: rows of the methods as a whole, and rows by family."""
    if frame is None:
        return None
    rows = [
        {
            "name": str(row).strip(),
            "family": str(row).startswith("  "),
            "cells": {method: cell(str(row), value) for method, value in values.items()},
            "best": best_methods(frame, str(row)),
        }
        for row, values in frame.to_dict("index").items()
    ]
    return {
        "methods": list(frame.columns),
        "chosen": CHOSEN,
        "rows": [row for row in rows if not row["family"]],
        "families": [row for row in rows if row["family"]],
    }


def _changed(stored: Stored) -> Any:
    """Return the changed answers, or the reason why they are not known."""
    try:
        return changed_answers(stored)
    except OpsearchError as error:
        return str(error)
