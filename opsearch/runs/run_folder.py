"""The folder of a run: its files, and a lock that keeps two runs out of it at once."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from opsearch.data.groups import Seen
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
        self.draws = path / "draws"

    def front_file(self, cost: str, *, searched: bool = False) -> Path:
        """Return the file of a front by cost: front.csv for flops, else front_COST.csv.

        The name of a searched front contains `joint`.
        """
        words = ["front", *(["joint"] if searched else []), *([] if cost == "flops" else [cost])]
        return self.path / f"{'_'.join(words)}.csv"

    def seen(self) -> Seen:
        """Return the samples that the search of the solution saw.

        Raises:
            RunFolderError: They are not recorded, or by an earlier version.
        """
        try:
            record = json.loads(self.solution.read_text(encoding="utf-8"))
            items = record["items"]
            if "pictures" in record:
                return Seen(tuple(items), tuple(record["pictures"]), tuple(record["groups"]))
        except (OSError, ValueError, KeyError, TypeError):
            raise RunFolderError(
                f"{self.solution} does not list the samples on which this policy was searched; "
                "`opsearch run` writes such a file"
            ) from None
        raise RunFolderError(
            f"{self.solution} is of an earlier version of opsearch, which recognised samples in "
            "another way; run `opsearch run` again"
        )

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
