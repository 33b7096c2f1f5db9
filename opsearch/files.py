"""Writing files of a run: whole or not at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path

from opsearch.errors import RunFolderError


def write_atomic(path: Path, write: Callable[[Path], object]) -> Path:
    """Let `write` fill a temporary file beside `path` and put it in place; returns `path`.

    Raises RunFolderError when the folder cannot be written or the disk is full; an earlier file of
    that name is then untouched.
    """
    temporary: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=".", suffix=path.suffix)
        os.close(handle)
        temporary = Path(name)
        write(temporary)
        temporary.chmod(0o644)
        temporary.replace(path)
    except OSError as error:
        raise RunFolderError(
            f"{path} cannot be written ({error.strerror or error}); free some space or choose "
            "another folder, the same command goes on where it stopped"
        ) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
    return path


def write_text(path: Path, text: str) -> Path:
    """Write a text file whole or not at all."""
    return write_atomic(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))
