"""The folder of a run: its files, and a lock that keeps two runs out of it at once."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from opsearch.errors import RunFolderError
from opsearch.files import write_text
from opsearch.problem import Solution


class RunFolder:
    """Paths of a run's files."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config = path / "run.yaml"
        self.measurements = path / "measurements.db"
        self.solution = path / "solution.json"
        self.front = path / "front.csv"
        self.comparison = path / "comparison.csv"
        self.policy_figure = path / "policy.svg"
        self.front_figure = path / "front.svg"

    @contextmanager
    def locked(self) -> Iterator[RunFolder]:
        """Hold the folder; RunFolderError when it cannot be written or another run holds it."""
        lock = FileLock(self.path / ".lock")
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            lock.acquire(timeout=0)
        except Timeout:
            raise RunFolderError(
                f"another opsearch process works in {self.path}; wait for it or choose another "
                "--out"
            ) from None
        except OSError as error:
            raise RunFolderError(
                f"{self.path} cannot be written ({error.strerror or error}); choose another --out"
            ) from error
        try:
            yield self
        finally:
            lock.release()

    def save_solution(self, solution: Solution, facts: dict[str, Any]) -> Path:
        """Write solution.json: the record of the solve with `facts` about the run."""
        record = {
            "status": str(solution.status),
            "sentence": solution.status.sentence,
            "solver": solution.solver,
            "objective": solution.objective,
            "unit": solution.unit,
            "point": solution.point,
            "value": solution.value,
            "costs": solution.costs,
            "bound": solution.bound,
            "gap": solution.gap,
            "error_bound": solution.error_bound,
            "evaluations": solution.evaluations,
            "seed": solution.seed,
            "seconds": solution.seconds,
            "note": solution.note,
            "versions": solution.versions,
            **facts,
        }
        return write_text(self.solution, json.dumps(record, indent=2) + "\n")
