"""Makes report.html: what a run knows, poured into the template beside this file."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from opsearch.errors import OpsearchError
from opsearch.files import write_text
from opsearch.report.changed import changed_answers
from opsearch.report.figures import figures, heat_map
from opsearch.report.headline import headline
from opsearch.report.stored import Stored, read_stored
from opsearch.run_folder import RunFolder
from opsearch.verdict import CHOSEN, best_methods, cell


def save_report(folder: Path) -> Path:
    """Write the page of a run folder, always the same from the same files; returns its path.

    Raises RunFolderError when the folder holds no results, or damaged ones.
    """
    stored = read_stored(folder)
    environment = Environment(
        loader=PackageLoader("opsearch.report", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
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
    return write_text(RunFolder(folder).report, page)


def _commands(text: str) -> Markup:
    """A sentence in which what stands between backticks is set as code."""
    return Markup(re.sub("`([^`]+)`", r"<code>\1</code>", str(escape(text))))


def _comparison(frame: pd.DataFrame | None) -> dict[str, Any] | None:
    """The comparison as formatted cells: of the methods as a whole, and by family."""
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
    """The changed answers, or the sentence why they are not known."""
    try:
        return changed_answers(stored)
    except OpsearchError as error:
        return str(error)
