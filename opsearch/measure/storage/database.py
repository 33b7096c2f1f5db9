"""The database file: schema, transactions, and SQLite errors as RunFolderError."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from opsearch.errors import RunFolderError

_APPLICATION_ID = 0x6F707372
_FORMAT = 8
_SCHEMA = """
CREATE TABLE IF NOT EXISTS context (
  id INTEGER PRIMARY KEY, digest TEXT UNIQUE NOT NULL, facts TEXT NOT NULL,
  used INTEGER NOT NULL DEFAULT 0);
CREATE TABLE IF NOT EXISTS sample (
  context INTEGER NOT NULL REFERENCES context, split TEXT NOT NULL, place INTEGER NOT NULL,
  item TEXT NOT NULL, name TEXT NOT NULL, family TEXT NOT NULL,
  n_visual INTEGER NOT NULL, n_other INTEGER NOT NULL, content TEXT NOT NULL,
  result TEXT NOT NULL DEFAULT '', image_flops INTEGER,
  PRIMARY KEY (context, result, split, place)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS seen (
  context INTEGER NOT NULL REFERENCES context, kind TEXT NOT NULL, value TEXT NOT NULL,
  result TEXT NOT NULL DEFAULT '',
  PRIMARY KEY (context, result, kind, value)
);
CREATE TABLE IF NOT EXISTS measurement (
  context INTEGER NOT NULL REFERENCES context, policy TEXT NOT NULL, item TEXT NOT NULL,
  kl REAL NOT NULL, reverse_kl REAL NOT NULL, js REAL NOT NULL, top1 REAL NOT NULL,
  PRIMARY KEY (context, policy, item)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS answer (
  context INTEGER NOT NULL REFERENCES context, policy TEXT NOT NULL, item TEXT NOT NULL,
  text TEXT NOT NULL, score REAL NOT NULL,
  tokens INTEGER NOT NULL DEFAULT 0, cut INTEGER NOT NULL DEFAULT 0,
  PRIMARY KEY (context, policy, item)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS compared (
  context INTEGER NOT NULL REFERENCES context, budget TEXT NOT NULL, method TEXT NOT NULL,
  policy TEXT NOT NULL, result TEXT NOT NULL DEFAULT '',
  PRIMARY KEY (context, result, budget, method)
);
CREATE TABLE IF NOT EXISTS received (
  context INTEGER NOT NULL REFERENCES context, item TEXT NOT NULL, layers INTEGER NOT NULL,
  masses BLOB NOT NULL,
  PRIMARY KEY (context, item)
);
CREATE TABLE IF NOT EXISTS gate_gradient (
  context INTEGER NOT NULL REFERENCES context, policy TEXT NOT NULL, item TEXT NOT NULL,
  value REAL NOT NULL,
  PRIMARY KEY (context, policy, item)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS checkpoint (
  context INTEGER NOT NULL REFERENCES context, name TEXT NOT NULL, digest TEXT NOT NULL,
  PRIMARY KEY (context, name)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS descent (
  context INTEGER NOT NULL REFERENCES context, search TEXT NOT NULL, state BLOB NOT NULL,
  PRIMARY KEY (context, search)
);
"""
OF_A_RESULT = ("sample", "seen", "compared")
"""Tables in which each result of a run has rows."""


def connected(path: Path) -> sqlite3.Connection:
    """Open or create the file and its tables; a file that cannot be written is opened for reading.

    Raises:
        RunFolderError: The file is of another program, newer, or of an earlier format that cannot
            be brought to this one; it is never overwritten.
    """
    writable = not path.exists() or (os.access(path, os.W_OK) and os.access(path.parent, os.W_OK))
    db = _opened(path) if writable else _opened_for_reading(path)
    try:
        version = _format(db, path)
        if not writable and version < _FORMAT:
            raise RunFolderError(
                f"{path} has format {version} and cannot be written, so that it cannot be brought "
                f"to format {_FORMAT}; copy its folder to where you can write"
            )
        if writable:
            _prepare(db, version)
    except BaseException:
        db.close()
        raise
    return db


def _opened(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(path, timeout=5, isolation_level=None)


def _opened_for_reading(path: Path) -> sqlite3.Connection:
    """Open a file in a folder without permission to write, e.g. that of a colleague.

    SQLite would create a shared-memory file beside a file with a write-ahead log. It need not
    where the log is empty, as after every finished command.
    """
    log = path.with_name(f"{path.name}-wal")
    unchanging = "" if log.exists() and log.stat().st_size else "&immutable=1"
    uri = f"{path.absolute().as_uri()}?mode=ro{unchanging}"
    return sqlite3.connect(uri, timeout=5, isolation_level=None, uri=True)


def _format(db: sqlite3.Connection, path: Path) -> int:
    """Return the format of the file, 0 for a new one."""
    identity = db.execute("PRAGMA application_id").fetchone()[0]
    version = int(db.execute("PRAGMA user_version").fetchone()[0])
    tables = db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
    if tables and identity != _APPLICATION_ID:
        raise RunFolderError(
            f"{path} is a database of another program; choose another --out folder"
        )
    if version > _FORMAT:
        raise RunFolderError(
            f"{path} has format {version}, this opsearch reads up to {_FORMAT}; "
            "update opsearch or choose another --out folder"
        )
    return version


def _prepare(db: sqlite3.Connection, version: int) -> None:
    """Create the tables, or bring them to the format of this version."""
    db.execute("PRAGMA journal_mode=WAL")
    db.execute("PRAGMA synchronous=NORMAL")
    if version < _FORMAT:
        # Processes may open the file at the same time: the first one creates the tables.
        with transaction(db):
            _upgrade(db)
            former = _set_aside(db)
            for statement in filter(str.strip, _SCHEMA.split(";")):
                db.execute(statement)
            _take_back(db, former)
            db.execute(f"PRAGMA application_id={_APPLICATION_ID}")
            db.execute(f"PRAGMA user_version={_FORMAT}")


def _upgrade(db: sqlite3.Connection) -> None:
    """Add what the tables of earlier formats lack; only the first process finds something to add.

    Up to format 3 a sample had one digest, of its content, which was also the key of its numbers,
    and answers had no lengths. Up to format 7 the FLOPs of images were not stored.
    """
    if "content" not in (_columns(db, "sample") or {"content"}):
        db.execute("ALTER TABLE sample ADD COLUMN content TEXT NOT NULL DEFAULT ''")
        db.execute("UPDATE sample SET content=item")
    if "image_flops" not in (_columns(db, "sample") or {"image_flops"}):
        db.execute("ALTER TABLE sample ADD COLUMN image_flops INTEGER")
    for column in {"tokens", "cut"} - (_columns(db, "answer") or {"tokens", "cut"}):
        db.execute(f"ALTER TABLE answer ADD COLUMN {column} INTEGER NOT NULL DEFAULT 0")


def _set_aside(db: sqlite3.Connection) -> list[str]:
    """Rename the tables whose keys do not name a result, and return their names.

    Up to format 6 a file held the samples and the comparison of one result.
    """
    former = [name for name in OF_A_RESULT if "result" not in (_columns(db, name) or {"result"})]
    for name in former:
        db.execute(f"ALTER TABLE {name} RENAME TO former_{name}")
    return former


def _take_back(db: sqlite3.Connection, former: Sequence[str]) -> None:
    """Move the rows of renamed tables to the new ones, in their order."""
    for name in former:
        columns = ", ".join(sorted(_columns(db, f"former_{name}")))
        order = "" if name == "sample" else " ORDER BY rowid"
        db.execute(f"INSERT INTO {name} ({columns}) SELECT {columns} FROM former_{name}{order}")
        db.execute(f"DROP TABLE former_{name}")


def _columns(db: sqlite3.Connection, table: str) -> set[str]:
    return {row[1] for row in db.execute(f"PRAGMA table_info({table})")}


@contextmanager
def transaction(db: sqlite3.Connection) -> Iterator[None]:
    """Commit the writes of the block together, or none of them."""
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise
    db.execute("COMMIT")


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Raise SQLite errors as RunFolderError with the next step."""
    try:
        yield
    except sqlite3.DatabaseError as error:
        text = str(error)
        if "locked" in text:
            advice = "another process writes to it; wait for it or choose another --out folder"
        elif "full" in text or "disk I/O" in text:
            advice = "free some space and run the same command again to continue"
        elif "readonly" in text or "unable to open" in text:
            advice = "make the folder writable or choose another --out folder"
        else:
            advice = (
                "the file is damaged or not a store of opsearch; "
                "move it away or choose another --out"
            )
        raise RunFolderError(f"{path}: {text}; {advice}") from error
