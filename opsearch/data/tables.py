"""Columns of tables: those that are keys are read, all others are ignored with a note."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path

from opsearch.data.records import KEYS

_LOGGER = logging.getLogger("opsearch")


def note_ignored(path: Path, columns: Iterable[str]) -> None:
    """Log which columns are no keys, so that a misspelt one is noticed."""
    ignored = [name for name in columns if name not in KEYS]
    if ignored:
        _LOGGER.warning(
            f"{path}: ignored the columns {', '.join(ignored)}; opsearch reads {', '.join(KEYS)}"
        )
