"""The folder of a run: its files, and a lock that keeps two runs out of it at once."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from opsearch.data.groups import Seen
from opsearch.errors import RunFolderError
from opsearch.policy.file import holds_set

ANSWERS = "answers"
"""Folder inside a run folder, of the answers that it holds besides its first one."""
_MEASUREMENTS = "measurements.db"


def folder_of(path: Path) -> Path:
    """Return the folder of the answer that a policy, or a policy set, belongs to.

    Args:
        path: A run folder, a policy's file, or the folder or file of a set, which is in one.
    """
    folder = path if path.is_dir() else path.parent
    return folder.parent if holds_set(folder) else folder


class RunFolder:
    """Paths of the files of an answer: a run folder, or RUN/answers/NAME.

    All answers of a run share its measurements, its latency table and its lock.
    """

    def __init__(self, path: Path, run: Path | None = None) -> None:
        """Find the run of an answer.

        Args:
            path: The folder of the answer.
            run: The run of a further answer; None: recognised by its place and its measurements.
        """
        self.path = path
        whole = Path(os.path.abspath(path))  # without "..", and not through links
        # Any folder may be called "answers"; that of a run has measurements beside it.
        if whole.parent.name == ANSWERS and (whole.parents[1] / _MEASUREMENTS).exists():
            run = run or _above(path)
        self.name = whole.name if run else ""
        self.run = run or path
        self.config = path / "run.yaml"
        self.policy = path / "policy_config.json"
        self.solution = path / "solution.json"
        self.front = self.front_file("flops")
        self.comparison = path / "comparison.csv"
        self.images = path / "images.csv"
        self.policy_figure = path / "policy.svg"
        self.front_figure = path / "front.svg"
        self.prefill = path / "prefill.json"
        self.environment = path / "environment.json"
        self.report = path / "report.html"
        self.draws = path / "draws"
        self.measurements = self.run / _MEASUREMENTS
        self.latency = self.run / "latency.json"

    def answer(self, name: str) -> RunFolder:
        """Return the folder of a further answer of this run."""
        return RunFolder(self.run / ANSWERS / name, self.run)

    @property
    def further(self) -> list[RunFolder]:
        """The further answers of this run that were found, by name."""
        found = sorted((self.run / ANSWERS).glob(f"*/{self.solution.name}"))
        return [RunFolder(each.parent, self.run) for each in found]

    @property
    def files(self) -> list[Path]:
        """The files of an answer that commands write."""
        of_search = [self.config, self.policy, self.solution, self.comparison, self.report]
        return [
            *of_search,
            self.images,
            self.front,
            self.environment,
            self.policy_figure,
            self.front_figure,
        ]

    def is_same(self, other: RunFolder) -> bool:
        """Return whether both are the same folder, however their paths are written."""
        return self.path.resolve() == other.path.resolve()

    def shares_measurements(self, other: RunFolder) -> bool:
        """Return whether both are answers of the same run."""
        return self.run.resolve() == other.run.resolve()

    def front_file(self, cost: str, *, searched: bool = False) -> Path:
        """Return the file of a front by cost: front.csv for flops, else front_COST.csv.

        The name of a searched front contains `joint`.
        """
        words = ["front", *(["joint"] if searched else []), *([] if cost == "flops" else [cost])]
        return self.path / f"{'_'.join(words)}.csv"

    @property
    def unfinished(self) -> str:
        """State of an unfinished run, as a sentence; empty if it is finished."""
        if self.solution.exists():
            return ""
        lock = FileLock(self.run / ".lock")
        try:
            with lock.acquire(timeout=0):
                pass
        except Timeout:
            return "The run goes on, and measures more."
        except OSError:  # a folder of others
            return "The run is not finished."
        return f"The run is not finished; `opsearch run --config {self.config}` goes on with it."

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
        """Hold the run; RunFolderError when it cannot be written or another process holds it."""
        lock = FileLock(self.run / ".lock")
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            lock.acquire(timeout=0)
        except Timeout:
            raise RunFolderError(
                f"another opsearch process works in {self.run}; wait for it or choose another --out"
            ) from None
        except OSError as error:
            raise RunFolderError(
                f"{self.path} cannot be written ({error.strerror or error}); choose another --out"
            ) from error
        try:
            yield self
        finally:
            lock.release()


def _above(path: Path) -> Path:
    """Return the folder two levels above, relative where the path is, as messages show it."""
    plain = ".." not in path.parts and len(path.parts) > 1
    return path.parent.parent if plain else Path(os.path.abspath(path)).parents[1]
