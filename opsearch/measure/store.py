"""measurements.db: what was measured, keyed by what it depends on.

One SQLite file with a write-ahead log; every `add` is one transaction, so that killing the process
loses at most the chunk in flight. A context is everything besides item and policy that a number
depends on: model, dtype, attention, processor and template, answer positions, engine version.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from opsearch.errors import RunFolderError

_APPLICATION_ID = 0x6F707372
_FORMAT = 3
_SCHEMA = """
CREATE TABLE IF NOT EXISTS context (
  id INTEGER PRIMARY KEY, digest TEXT UNIQUE NOT NULL, facts TEXT NOT NULL,
  used INTEGER NOT NULL DEFAULT 0);
CREATE TABLE IF NOT EXISTS sample (
  context INTEGER NOT NULL REFERENCES context, split TEXT NOT NULL, place INTEGER NOT NULL,
  item TEXT NOT NULL, name TEXT NOT NULL, family TEXT NOT NULL,
  n_visual INTEGER NOT NULL, n_other INTEGER NOT NULL,
  PRIMARY KEY (context, split, place)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS measurement (
  context INTEGER NOT NULL REFERENCES context, policy TEXT NOT NULL, item TEXT NOT NULL,
  kl REAL NOT NULL, reverse_kl REAL NOT NULL, js REAL NOT NULL, top1 REAL NOT NULL,
  PRIMARY KEY (context, policy, item)
) WITHOUT ROWID;
"""
_SCHEMA_2 = """
CREATE TABLE IF NOT EXISTS answer (
  context INTEGER NOT NULL REFERENCES context, policy TEXT NOT NULL, item TEXT NOT NULL,
  text TEXT NOT NULL, score REAL NOT NULL,
  PRIMARY KEY (context, policy, item)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS compared (
  context INTEGER NOT NULL REFERENCES context, budget TEXT NOT NULL, method TEXT NOT NULL,
  policy TEXT NOT NULL,
  PRIMARY KEY (context, budget, method)
);
"""
_SCHEMA_3 = """
CREATE TABLE IF NOT EXISTS received (
  context INTEGER NOT NULL REFERENCES context, item TEXT NOT NULL, layers INTEGER NOT NULL,
  masses BLOB NOT NULL,
  PRIMARY KEY (context, item)
);
"""
CALIBRATION, HELD_OUT = "calibration", "held-out"
COMPARED, COMPARED_CALIBRATION = "compared", "compared calibration"
"""Names of splits; those of a comparison stay with it when the run's own samples change."""
COLUMNS = ("kl", "reverse_kl", "js", "top1")
Masses = NDArray[np.float32]
"""What visual tokens get of the original's attention, see `opsearch.measure.attention`."""


@dataclass(frozen=True)
class Measurement:
    """One policy on one sample; policy is the canonical key, item the item's digest."""

    policy: str
    item: str
    kl: float
    reverse_kl: float
    js: float
    top1: float


@dataclass(frozen=True)
class StoredAnswer:
    """What was generated for an item under a policy, and its score between 0 and 1."""

    policy: str
    item: str
    text: str
    score: float


@dataclass(frozen=True)
class Compared:
    """A method's policy for a budget, as the text of its file."""

    budget: str
    method: str
    policy: str


@dataclass(frozen=True)
class StoredSample:
    """A sample of a run as analysis needs it: no pictures, no text."""

    item: str
    name: str
    family: str
    n_visual: int
    n_other: int


class Store:
    """The measurements of one context in a run folder; a context manager that closes the file."""

    def __init__(self, path: Path, facts: dict[str, Any] | None = None) -> None:
        """Open or create the store for the context with these facts; None: the last one used.

        Raises RunFolderError for a damaged, foreign, newer or locked file; it is never overwritten.
        """
        self.path = path
        if facts is None and not path.exists():
            raise RunFolderError(
                f"{path} does not exist; run `opsearch run` into that folder first"
            )
        with self._explained():
            self._db = sqlite3.connect(path, timeout=5, isolation_level=None)
            try:
                self._prepare()
                self._context = self._open_context(facts)
            except BaseException:
                self._db.close()
                raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._db.close()

    @property
    def facts(self) -> dict[str, Any]:
        """What the measurements of this context depend on."""
        query = "SELECT facts FROM context WHERE id=?"
        with self._explained():
            facts: dict[str, Any] = json.loads(
                self._db.execute(query, (self._context,)).fetchone()[0]
            )
        return facts

    def add(self, measurements: Iterable[Measurement]) -> None:
        """Write one chunk in one transaction; values that are there already are kept."""
        rows = [(self._context, *astuple(m)) for m in measurements]
        with self._explained(), self._transaction():
            self._db.executemany("INSERT OR IGNORE INTO measurement VALUES (?,?,?,?,?,?,?)", rows)

    def get(self, policies: Sequence[str], column: str = "kl") -> dict[tuple[str, str], float]:
        """Stored values of a column by (policy, item) for these canonical keys."""
        if column not in COLUMNS:
            raise ValueError(f"{column!r} is no measured column")
        found: dict[tuple[str, str], float] = {}
        query = f"SELECT policy, item, {column} FROM measurement WHERE context=? AND policy=?"
        with self._explained():
            for policy in dict.fromkeys(policies):
                for key, item, value in self._db.execute(query, (self._context, policy)):
                    found[key, item] = value
        return found

    def everything(self) -> Iterator[Measurement]:
        """All stored measurements of this context, in no order."""
        query = f"SELECT policy, item, {', '.join(COLUMNS)} FROM measurement WHERE context=?"
        with self._explained():
            for row in self._db.execute(query, (self._context,)):
                yield Measurement(*row)

    def add_answers(self, answers: Iterable[StoredAnswer]) -> None:
        """Write answers in one transaction; those that are there already are kept."""
        rows = [(self._context, *astuple(a)) for a in answers]
        with self._explained(), self._transaction():
            self._db.executemany("INSERT OR IGNORE INTO answer VALUES (?,?,?,?,?)", rows)

    def answers(self, policies: Iterable[str]) -> dict[tuple[str, str], StoredAnswer]:
        """Stored answers by (policy, item) for these canonical keys."""
        found = {}
        query = "SELECT policy, item, text, score FROM answer WHERE context=? AND policy=?"
        with self._explained():
            for policy in dict.fromkeys(policies):
                for row in self._db.execute(query, (self._context, policy)):
                    found[row[0], row[1]] = StoredAnswer(*row)
        return found

    def add_received(self, received: Iterable[tuple[str, Masses]]) -> None:
        """Write what visual tokens get of the attention, [L, 2, N] by item, in one transaction."""
        rows = [
            (self._context, item, len(masses), masses.astype("<f4").tobytes())
            for item, masses in received
        ]
        with self._explained(), self._transaction():
            self._db.executemany("INSERT OR IGNORE INTO received VALUES (?,?,?,?)", rows)

    def received(self, items: Sequence[str]) -> dict[str, Masses]:
        """What is stored of the attention that visual tokens get, float32[L, 2, N] by item."""
        found = {}
        query = "SELECT layers, masses FROM received WHERE context=? AND item=?"
        with self._explained():
            for item in items:
                for layers, masses in self._db.execute(query, (self._context, item)):
                    found[item] = np.frombuffer(masses, "<f4").reshape(layers, 2, -1)
        return found

    def put_comparison(
        self, rows: Iterable[Compared], splits: Mapping[str, Sequence[StoredSample]]
    ) -> None:
        """Note which policies were compared on which samples, in place of an earlier comparison."""
        values = [(self._context, *astuple(row)) for row in rows]
        with self._explained(), self._transaction():
            for split, samples in splits.items():
                self._replace_samples(split, samples)
            self._db.execute("DELETE FROM compared WHERE context=?", (self._context,))
            self._db.executemany("INSERT INTO compared VALUES (?,?,?,?)", values)

    def compared(self) -> list[Compared]:
        """The policies of the last comparison, in the order in which they were given."""
        query = "SELECT budget, method, policy FROM compared WHERE context=? ORDER BY rowid"
        with self._explained():
            return [Compared(*row) for row in self._db.execute(query, (self._context,))]

    def count(self) -> int:
        """Number of stored measurements of this context."""
        query = "SELECT count(*) FROM measurement WHERE context=?"
        with self._explained():
            return int(self._db.execute(query, (self._context,)).fetchone()[0])

    def put_samples(self, split: str, samples: Sequence[StoredSample]) -> None:
        """Note which samples a split of the run consists of, in order."""
        with self._explained(), self._transaction():
            self._replace_samples(split, samples)

    def calibration(self) -> list[StoredSample]:
        """The calibration samples; RunFolderError where no run has finished measuring."""
        samples = self.samples(CALIBRATION)
        if not samples:
            raise RunFolderError(
                f"{self.path} holds no run that finished measuring; the same `opsearch run` goes "
                "on where it stopped"
            )
        return samples

    def samples(self, split: str) -> list[StoredSample]:
        """The samples of a split, in order."""
        query = (
            "SELECT item, name, family, n_visual, n_other FROM sample "
            "WHERE context=? AND split=? ORDER BY place"
        )
        with self._explained():
            return [StoredSample(*row) for row in self._db.execute(query, (self._context, split))]

    def _replace_samples(self, split: str, samples: Sequence[StoredSample]) -> None:
        rows = [(self._context, split, place, *astuple(s)) for place, s in enumerate(samples)]
        self._db.execute("DELETE FROM sample WHERE context=? AND split=?", (self._context, split))
        self._db.executemany("INSERT INTO sample VALUES (?,?,?,?,?,?,?,?)", rows)

    def _prepare(self) -> None:
        identity = self._db.execute("PRAGMA application_id").fetchone()[0]
        version = self._db.execute("PRAGMA user_version").fetchone()[0]
        tables = self._db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
        if tables and identity != _APPLICATION_ID:
            raise RunFolderError(
                f"{self.path} is a database of another program; choose another --out folder"
            )
        if version > _FORMAT:
            raise RunFolderError(
                f"{self.path} has format {version}, this opsearch reads up to {_FORMAT}; "
                "update opsearch or choose another --out folder"
            )
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=NORMAL")
        if version < _FORMAT:
            # Others may open the same file now: whoever is first creates what is missing.
            with self._transaction():
                for statement in filter(str.strip, (_SCHEMA + _SCHEMA_2 + _SCHEMA_3).split(";")):
                    self._db.execute(statement)
                self._db.execute(f"PRAGMA application_id={_APPLICATION_ID}")
                self._db.execute(f"PRAGMA user_version={_FORMAT}")

    def _open_context(self, facts: dict[str, Any] | None) -> int:
        if facts is None:
            rows = self._db.execute("SELECT id FROM context ORDER BY used DESC LIMIT 1").fetchall()
            if not rows:
                raise RunFolderError(f"{self.path} holds no measurements; run `opsearch run` first")
            return int(rows[0][0])
        text = json.dumps(facts, sort_keys=True)
        digest = hashlib.sha256(text.encode()).hexdigest()
        with self._transaction():
            self._db.execute(
                "INSERT OR IGNORE INTO context (digest, facts) VALUES (?,?)", (digest, text)
            )
            latest = "SELECT max(used) + 1 FROM context"
            self._db.execute(f"UPDATE context SET used=({latest}) WHERE digest=?", (digest,))
        row = self._db.execute("SELECT id FROM context WHERE digest=?", (digest,)).fetchone()
        return int(row[0])

    @contextmanager
    def _transaction(self) -> Any:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")

    @contextmanager
    def _explained(self) -> Any:
        """Turn SQLite's errors into one sentence with the next step."""
        try:
            yield
        except sqlite3.DatabaseError as error:
            text = str(error)
            if "locked" in text:
                advice = "another process writes to it; wait for it or choose another --out folder"
            elif "full" in text or "disk I/O" in text:
                advice = (
                    "free some space and run the same command again, it goes on where it stopped"
                )
            elif "readonly" in text or "unable to open" in text:
                advice = "make the folder writable or choose another --out folder"
            else:
                advice = (
                    "the file is damaged or no opsearch store; move it away or choose another --out"
                )
            raise RunFolderError(f"{self.path}: {text}; {advice}") from error
