"""Atomic writing of files."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path

from opsearch.errors import RunFolderError


def write_atomic(path: Path, write: Callable[[Path], object]) -> Path:
    """Write a file completely or not at all.

    Args:
        path: The file.
        write: Function that writes a temporary file in the same folder, which then replaces `path`.

    Returns:
        The path.

    Raises:
        RunFolderError: The folder cannot be written or the disk is full; an existing file is kept.
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
            f"{path} cannot be written ({error.strerror or error}); free some space and run the "
            "same command again to resume, or choose another folder"
        ) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
    return path


def require_new(path: Path) -> None:
    """Raise RunFolderError if a file that a user named exists, which may be of another origin."""
    if path.exists():
        raise RunFolderError(f"{path} exists; write over it with --replace, or name another file")


def write_text(path: Path, text: str) -> Path:
    """Write a text file completely or not at all."""
    return write_atomic(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))
