"""The folder of a run: its files, and a lock that keeps two runs out of it at once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from opsearch.errors import RunFolderError


class RunFolder:
    """Paths of a run's files."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config = path / "run.yaml"
        self.measurements = path / "measurements.db"
        self.solution = path / "solution.json"
        self.front = self.front_file("flops")
        self.comparison = path / "comparison.csv"
        self.policy_figure = path / "policy.svg"
        self.front_figure = path / "front.svg"
        self.latency = path / "latency.json"
        self.prefill = path / "prefill.json"
        self.environment = path / "environment.json"
        self.report = path / "report.html"

    def front_file(self, cost: str, *, searched: bool = False) -> Path:
        """Return the file of a front by cost: front.csv for flops, else front_COST.csv.

        The name of a searched front contains `joint`.
        """
        words = ["front", *(["joint"] if searched else []), *([] if cost == "flops" else [cost])]
        return self.path / f"{'_'.join(words)}.csv"

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
