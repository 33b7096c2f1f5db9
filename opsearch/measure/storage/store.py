"""Store of measurements (measurements.db), keyed by everything they depend on.

One SQLite file with a write-ahead log. Every `add` is one transaction, so that killing the process
loses at most the chunk in flight. A context is everything besides sample and policy that a number
depends on: model, dtype, attention, processor and template, answer positions, engine version.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import astuple, fields, replace
from operator import attrgetter
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from opsearch.data.groups import Seen
from opsearch.errors import RunFolderError, echo
from opsearch.measure.storage.database import OF_A_RESULT, connected, explained, transaction
from opsearch.measure.storage.records import (
    CALIBRATION,
    COLUMNS,
    FULL_SIZE,
    HELD_OUT,
    Compared,
    GateGradient,
    Measurement,
    StoredAnswer,
    StoredSample,
)
from opsearch.problem.objective import Masses

ENGINE_VERSION = 3
"""Raised when measured values change; part of the facts of a store."""

# Much faster than `astuple`, which copies each value of up to hundreds of thousands of rows.
_FIELDS = attrgetter("policy", "item", *COLUMNS)
_SAMPLE = attrgetter("item", "name", "family", "n_visual", "n_other", "content", "image_flops")


class Store:
    """The measurements of one context in a run folder; a context manager that closes the file.

    Attributes:
        path: The database file.
        result: Name of the result whose samples and comparison are read and written.
    """

    def __init__(self, path: Path, facts: dict[str, Any] | None = None, result: str = "") -> None:
        """Open or create the store.

        Args:
            path: The database file.
            facts: Everything the measurements depend on; None selects the context in which the
                result was found, or the one used last if it was not found yet.
            result: Name of the result whose samples and comparison are read and written; empty: the
                first one of the folder. All results share the measurements.

        Raises:
            RunFolderError: The file is damaged, foreign, newer or locked; it is never overwritten.
        """
        self.path = path
        self.result = result
        if facts is None and not path.exists():
            raise RunFolderError(
                f"{path} does not exist; run `opsearch run` into that folder, or give the folder "
                "of the run that measured"
            )
        with explained(self.path):
            self._db = connected(path)
            try:
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
        """Everything that the measurements of this context depend on."""
        query = "SELECT facts FROM context WHERE id=?"
        with explained(self.path):
            facts: dict[str, Any] = json.loads(
                self._db.execute(query, (self._context,)).fetchone()[0]
            )
        return facts

    def add(self, measurements: Iterable[Measurement]) -> None:
        """Write one chunk in one transaction; existing values are kept."""
        rows = [(self._context, *_FIELDS(m)) for m in measurements]
        with explained(self.path), transaction(self._db):
            self._db.executemany("INSERT OR IGNORE INTO measurement VALUES (?,?,?,?,?,?,?)", rows)

    def get(self, policies: Sequence[str], column: str = "kl") -> dict[tuple[str, str], float]:
        """Return stored values of a column by (policy, item) for these canonical keys."""
        _check_columns([column])
        found: dict[tuple[str, str], float] = {}
        query = f"SELECT policy, item, {column} FROM measurement WHERE context=? AND policy=?"
        with explained(self.path):
            for policy in dict.fromkeys(policies):
                for key, item, value in self._db.execute(query, (self._context, policy)):
                    found[key, item] = value
        return found

    def table(
        self, policies: Sequence[str], items: Sequence[str], columns: Sequence[str] = ("kl",)
    ) -> NDArray[np.float64]:
        """Return stored values of these columns for canonical keys and samples, float64[C, P, I].

        They are nan where nothing is stored. Keys and samples may repeat.
        """
        _check_columns(columns)
        # In the order of the table, so that SQLite reads each of its pages once.
        row_of = {policy: row for row, policy in enumerate(sorted(set(policies)))}
        column_of = {item: column for column, item in enumerate(dict.fromkeys(items))}
        query = (
            f"SELECT wanted.key, item, {', '.join(columns)} FROM json_each(?) AS wanted "
            "CROSS JOIN measurement WHERE context=? AND policy=wanted.value"
        )
        with explained(self.path):
            keys = json.dumps(list(row_of))
            stored = self._db.execute(query, (keys, self._context)).fetchall()
        # The last column takes the samples that were not requested.
        table = np.full((len(columns), len(row_of), len(column_of) + 1), np.nan)
        if stored:
            rows, of_item, *values = zip(*stored, strict=True)
            table[:, rows, [column_of.get(item, -1) for item in of_item]] = values
        at = np.ix_(
            range(len(columns)),
            [row_of[key] for key in policies],
            [column_of[item] for item in items],
        )
        return table[at]

    def everything(self) -> Iterator[Measurement]:
        """Yield all stored measurements of this context, in no particular order."""
        query = f"SELECT policy, item, {', '.join(COLUMNS)} FROM measurement WHERE context=?"
        with explained(self.path):
            for row in self._db.execute(query, (self._context,)):
                yield Measurement(*row)

    def add_answers(self, answers: Iterable[StoredAnswer]) -> None:
        """Write answers in one transaction; they replace existing ones."""
        rows = [(self._context, *astuple(a)) for a in answers]
        with explained(self.path), transaction(self._db):
            self._db.executemany(
                "INSERT OR REPLACE INTO answer (context, policy, item, text, score, tokens, cut) "
                "VALUES (?,?,?,?,?,?,?)",
                rows,
            )

    def answers(self, policies: Iterable[str]) -> dict[tuple[str, str], StoredAnswer]:
        """Return stored answers by (policy, item) for these canonical keys."""
        found = {}
        query = (
            "SELECT policy, item, text, score, tokens, cut FROM answer WHERE context=? AND policy=?"
        )
        with explained(self.path):
            for policy in dict.fromkeys(policies):
                for row in self._db.execute(query, (self._context, policy)):
                    *_, text, score, tokens, cut = row
                    found[row[0], row[1]] = StoredAnswer(
                        policy=row[0],
                        item=row[1],
                        text=text,
                        score=score,
                        tokens=tokens,
                        cut=bool(cut),
                    )
        return found

    def add_received(self, received: Iterable[tuple[str, Masses]]) -> None:
        """Write the attention that visual tokens receive, [L, 2, N] by item, in one transaction."""
        rows = [
            (self._context, item, len(masses), masses.astype("<f4").tobytes())
            for item, masses in received
        ]
        with explained(self.path), transaction(self._db):
            self._db.executemany("INSERT OR IGNORE INTO received VALUES (?,?,?,?)", rows)

    def received(self, items: Sequence[str]) -> dict[str, Masses]:
        """Return the stored attention that visual tokens receive, float32[L, 2, N] by item."""
        found = {}
        query = "SELECT layers, masses FROM received WHERE context=? AND item=?"
        with explained(self.path):
            for item in items:
                for layers, masses in self._db.execute(query, (self._context, item)):
                    found[item] = np.frombuffer(masses, "<f4").reshape(layers, 2, -1)
        return found

    def take(self, other: Path, items: Sequence[str]) -> None:
        """Copy the measurements and answers of samples from another store with the same facts.

        Args:
            other: The file of the other store; nothing is taken if it does not exist.
            items: Keys of the samples.
        """
        if not other.exists():
            return
        with explained(other):
            connected(other).close()  # brings it to the format of this version
        with explained(self.path):
            self._db.execute("ATTACH ? AS other", (str(other),))
            try:
                with transaction(self._db):
                    self._take_attached(items)
            finally:
                self._db.execute("DETACH other")

    def _take_attached(self, items: Sequence[str]) -> None:
        """Copy rows of the attached store; its digests of checkpoints hold for them."""
        query = (
            "SELECT theirs.id FROM other.context AS theirs JOIN main.context AS ours "
            "ON theirs.digest=ours.digest WHERE ours.id=?"
        )
        for (theirs,) in self._db.execute(query, (self._context,)).fetchall():
            self._db.execute(
                "INSERT OR IGNORE INTO checkpoint "
                "SELECT ?, name, digest FROM other.checkpoint WHERE context=?",
                (self._context, theirs),
            )
            columns = {"measurement": COLUMNS, "answer": ("text", "score", "tokens", "cut")}
            for table, names in columns.items():
                row = f"policy, item, {', '.join(names)}"
                self._db.execute(
                    f"INSERT OR IGNORE INTO {table} (context, {row}) "
                    f"SELECT ?, {row} FROM other.{table} "
                    "WHERE context=? AND item IN (SELECT value FROM json_each(?))",
                    (self._context, theirs, json.dumps(list(items))),
                )

    def add_gate_gradients(self, gradients: Iterable[GateGradient]) -> None:
        """Write gradients of gates in one transaction; existing values are kept."""
        rows = [(self._context, *astuple(gradient)) for gradient in gradients]
        with explained(self.path), transaction(self._db):
            self._db.executemany("INSERT OR IGNORE INTO gate_gradient VALUES (?,?,?,?)", rows)

    def gate_gradients(self, policies: Iterable[str]) -> dict[tuple[str, str], float]:
        """Return the stored gradients of gates by (policy, item) for these canonical keys."""
        found = {}
        query = "SELECT policy, item, value FROM gate_gradient WHERE context=? AND policy=?"
        with explained(self.path):
            for policy in dict.fromkeys(policies):
                for key, item, value in self._db.execute(query, (self._context, policy)):
                    found[key, item] = value
        return found

    def put_descent(self, search: str, state: bytes) -> None:
        """Write the state of a descent in place of the former one of the same search."""
        with explained(self.path), transaction(self._db):
            row = (self._context, search, state)
            self._db.execute("INSERT OR REPLACE INTO descent VALUES (?,?,?)", row)

    def descent(self, search: str) -> bytes | None:
        """Return the state of the descent of a search; None if it has not begun."""
        query = "SELECT state FROM descent WHERE context=? AND search=?"
        with explained(self.path):
            found = self._db.execute(query, (self._context, search)).fetchone()
        return found[0] if found else None

    def require_checkpoint(self, name: str, digest: str) -> None:
        """Remember the digest of a further checkpoint that policies name, e.g. a ranker's CLIP.

        Raises:
            RunFolderError: Numbers with another checkpoint of that name are stored.
        """
        with explained(self.path), transaction(self._db):
            row = (self._context, name, digest)
            self._db.execute("INSERT OR IGNORE INTO checkpoint VALUES (?,?,?)", row)
            query = "SELECT digest FROM checkpoint WHERE context=? AND name=?"
            (stored,) = self._db.execute(query, row[:2]).fetchone()
        if stored != digest:
            raise RunFolderError(
                f"{self.path} holds measurements with other files in {name}, which changed since; "
                "choose another --out folder, or restore those files"
            )

    def put_comparison(
        self, rows: Iterable[Compared], splits: Mapping[str, Sequence[StoredSample]]
    ) -> None:
        """Replace the stored comparison: which policies were compared on which samples."""
        values = [(self._context, self.result, *astuple(row)) for row in rows]
        with explained(self.path), transaction(self._db):
            for split, samples in splits.items():
                self._replace_samples(split, samples)
            self._db.execute("DELETE FROM compared WHERE result=?", (self.result,))
            self._db.executemany(
                "INSERT INTO compared (context, result, budget, method, policy) VALUES (?,?,?,?,?)",
                values,
            )

    def compared(self) -> list[Compared]:
        """Return the policies of the last comparison, in their original order."""
        query = (
            "SELECT budget, method, policy FROM compared WHERE context=? AND result=? "
            "ORDER BY rowid"
        )
        with explained(self.path):
            return [Compared(*row) for row in self._db.execute(query, self._own)]

    def put_samples(self, split: str, samples: Sequence[StoredSample]) -> None:
        """Replace the samples of a split of the run."""
        with explained(self.path), transaction(self._db):
            self._replace_samples(split, samples)

    def put_calibration(self, samples: Sequence[StoredSample], seen: Seen) -> None:
        """Replace the calibration samples of the run, and what evaluations recognise them by."""
        rows = [(*self._own, kind, value) for kind, values in _kinds(seen) for value in values]
        with explained(self.path), transaction(self._db):
            self._replace_samples(CALIBRATION, samples)
            self._db.execute("DELETE FROM seen WHERE result=?", (self.result,))
            self._db.executemany(
                "INSERT INTO seen (context, result, kind, value) VALUES (?,?,?,?)", rows
            )

    def share_samples(self, result: str) -> None:
        """Give another result the calibration and held-out samples of this one.

        A comparison has samples of its own.
        """
        if result == self.result:
            return
        names = (CALIBRATION, HELD_OUT)
        splits, of_search = (*names, *(name + FULL_SIZE for name in names)), "split IN (?,?,?,?)"
        columns = "split, place, item, name, family, n_visual, n_other, content, image_flops"
        with explained(self.path), transaction(self._db):
            self._db.execute(
                f"DELETE FROM sample WHERE result=? AND {of_search}", (result, *splits)
            )
            self._db.execute(
                f"INSERT INTO sample (context, result, {columns}) SELECT context, ?, {columns} "
                f"FROM sample WHERE context=? AND result=? AND {of_search}",
                (result, *self._own, *splits),
            )
            self._db.execute("DELETE FROM seen WHERE result=?", (result,))
            self._db.execute(
                "INSERT INTO seen (context, result, kind, value) SELECT context, ?, kind, value "
                "FROM seen WHERE context=? AND result=? ORDER BY rowid",
                (result, *self._own),
            )

    def copy_to(self, path: Path) -> None:
        """Write a new file with the same measurements, and this result as its first and only one.

        Args:
            path: The file, which does not exist.
        """
        with explained(path), closing(connected(path)) as other:
            self._db.backup(other)
            with transaction(other):
                for table in OF_A_RESULT:
                    other.execute(f"DELETE FROM {table} WHERE result!=?", (self.result,))
                    other.execute(f"UPDATE {table} SET result=''")

    def seen(self) -> Seen | None:
        """Return what evaluations recognise the calibration samples by.

        None if an earlier version stored the samples.
        """
        query = "SELECT kind, value FROM seen WHERE context=? AND result=? ORDER BY rowid"
        with explained(self.path):
            rows = self._db.execute(query, self._own).fetchall()
        found = {kind: tuple(v for k, v in rows if k == kind) for kind, _ in _kinds(Seen())}
        return Seen(**found) if rows else None

    def calibration(self) -> list[StoredSample]:
        """Return the calibration samples.

        Raises:
            RunFolderError: No run has finished measuring.
        """
        samples = self.samples(CALIBRATION)
        if not samples:
            raise RunFolderError(
                f"{self.path} holds no run that finished measuring; the same `opsearch run` goes "
                "on where it stopped"
            )
        return samples

    def samples(self, split: str) -> list[StoredSample]:
        """Return the samples of a split, in order."""
        query = (
            "SELECT item, name, family, n_visual, n_other, content, image_flops FROM sample "
            "WHERE context=? AND result=? AND split=? ORDER BY place"
        )
        with explained(self.path):
            samples, full = (
                [StoredSample(*row) for row in self._db.execute(query, (*self._own, name))]
                for name in (split, split + FULL_SIZE)
            )
        if not full:
            return samples
        pairs = zip(samples, full, strict=True)
        return [each if each == whole else replace(each, original=whole) for each, whole in pairs]

    def all_samples(self) -> list[tuple[str | None, StoredSample]]:
        """Return the samples of all results with their splits; None for those of others."""
        query = (
            "SELECT result, split, item, name, family, n_visual, n_other, content, image_flops "
            "FROM sample WHERE context=? ORDER BY result, split, place"
        )
        with explained(self.path):
            rows = self._db.execute(query, (self._context,)).fetchall()
        return [
            (split if result == self.result else None, StoredSample(*row))
            for result, split, *row in rows
        ]

    def _replace_samples(self, split: str, samples: Sequence[StoredSample]) -> None:
        full = [sample.original or sample for sample in samples]
        self._replace_split(split, samples)
        self._replace_split(split + FULL_SIZE, full if full != list(samples) else ())

    def _replace_split(self, split: str, samples: Sequence[StoredSample]) -> None:
        rows = [(*self._own, split, position, *_SAMPLE(s)) for position, s in enumerate(samples)]
        # In all contexts, because a result is found in one: that of its last search.
        self._db.execute("DELETE FROM sample WHERE result=? AND split=?", (self.result, split))
        columns = "context, result, split, place, item, name, family, n_visual, n_other, content"
        self._db.executemany(
            f"INSERT INTO sample ({columns}, image_flops) VALUES (?,?,?,?,?,?,?,?,?,?,?)", rows
        )

    @property
    def _own(self) -> tuple[int, str]:
        """The context and the result whose samples and comparison this store reads and writes."""
        return self._context, self.result

    def _open_context(self, facts: dict[str, Any] | None) -> int:
        if facts is None:
            found = "SELECT max(context=id) FROM sample WHERE result=? AND split=?"
            query = f"SELECT id FROM context ORDER BY ({found}) DESC, used DESC LIMIT 1"
            rows = self._db.execute(query, (self.result, CALIBRATION)).fetchall()
            if not rows:
                raise RunFolderError(f"{self.path} holds no measurements; run `opsearch run` first")
            return int(rows[0][0])
        text = json.dumps(facts, sort_keys=True)
        digest = hashlib.sha256(text.encode()).hexdigest()
        with transaction(self._db):
            self._db.execute(
                "INSERT OR IGNORE INTO context (digest, facts) VALUES (?,?)", (digest, text)
            )
            latest = "SELECT max(used) + 1 FROM context"
            self._db.execute(f"UPDATE context SET used=({latest}) WHERE digest=?", (digest,))
        row = self._db.execute("SELECT id FROM context WHERE digest=?", (digest,)).fetchone()
        return int(row[0])


def _kinds(seen: Seen) -> list[tuple[str, tuple[str, ...]]]:
    """Return the fields of what was seen, by name."""
    return [(field.name, getattr(seen, field.name)) for field in fields(seen)]


def _check_columns(columns: Iterable[str]) -> None:
    """Raise ValueError for a name that is no measured column; the names become part of a query."""
    for column in columns:
        if column not in COLUMNS:
            raise ValueError(
                f"{echo(column)} is no measured column; use one of {', '.join(COLUMNS)}"
            )
