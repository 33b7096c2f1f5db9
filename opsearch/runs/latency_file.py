"""latency.json: the latency table in a run folder."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from opsearch.costs.latency_table import LatencyTable
from opsearch.errors import OpsearchError, RunFolderError
from opsearch.files import write_text

_STRICT = ConfigDict(extra="forbid", strict=True)
_FILE = TypeAdapter(dataclass(LatencyTable, config=_STRICT, frozen=True))


def write_table(table: LatencyTable, path: Path) -> Path:
    """Write the table."""
    return write_text(path, json.dumps(dataclasses.asdict(table), indent=2) + "\n")


def read_table(path: Path) -> LatencyTable:
    """Read a table; RunFolderError when the file is damaged or of another version."""
    try:
        found = _FILE.validate_json(path.read_bytes())
        return LatencyTable(**dataclasses.asdict(found))
    except (OSError, ValidationError, OpsearchError) as error:
        reason = " ".join(str(error).split())
        raise RunFolderError(
            f"{path} cannot be read as a latency table ({reason}); remove it and run again"
        ) from error
