"""latency.json: the latency table in a run folder."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from opsearch.costs.latency_table import LatencyTable
from opsearch.errors import OpsearchError, RunFolderError
from opsearch.files import write_text


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)
    rows: tuple[int, ...]
    coarse: tuple[int, ...]
    same: tuple[int, ...]
    split: tuple[tuple[int, ...], ...]
    mlp: tuple[int, ...]
    base: int
    once: int
    launch: int
    launch_split: int
    place: str


def write_table(table: LatencyTable, path: Path) -> Path:
    """Write the table."""
    return write_text(path, json.dumps(dataclasses.asdict(table), indent=2) + "\n")


def read_table(path: Path) -> LatencyTable:
    """Read a table; RunFolderError when the file is damaged or of another version."""
    try:
        return LatencyTable(**_File.model_validate_json(path.read_bytes()).model_dump())
    except (OSError, ValidationError, OpsearchError) as error:
        reason = " ".join(str(error).split())
        raise RunFolderError(
            f"{path} cannot be read as a latency table ({reason}); remove it and run again"
        ) from error
