"""Standard output and error of any encoding, and with a reader that may be gone."""

from __future__ import annotations

import codecs
import sys
import unicodedata
from contextlib import suppress
from typing import NoReturn, TextIO

from opsearch.console import PlainConsole

CLOSED_PIPE = 141
"""Exit code of a command whose reader is gone, e.g. `head -1`: that of SIGPIPE in a shell."""
_READABLE = "opsearch-readable"
_SUBSTITUTES = {
    **{char: str(height) for height, char in enumerate("▁▂▃▄▅▆▇█", 1)},
    **dict.fromkeys("\u2018\u2019", "'"),
    **dict.fromkeys("\u201c\u201d", '"'),
    **dict.fromkeys("\u2010\u2011\u2012\u2013\u2014\u2212", "-"),
    "\u00b7": ".",
    "\u00b1": "+-",
    "\u00d7": "x",
}


class StreamConsole(PlainConsole):
    """Console that ends the command without a word once its reader is gone."""

    def on_broken_pipe(self) -> NoReturn:
        """Leave by SystemExit, which unwinds all blocks; what was measured is kept."""
        raise SystemExit(CLOSED_PIPE)


def make_readable() -> None:
    """Replace each character that a stream's encoding lacks by the most similar text.

    Otherwise the first bar of a table or letter of a path would lose all that follows.
    """
    codecs.register_error(_READABLE, _substitute)
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors=_READABLE)


def _substitute(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(map(_similar, error.object[error.start : error.end])), error.end


def _similar(char: str) -> str:
    """Return ASCII text for a character, `?` if nothing is similar."""
    if char in _SUBSTITUTES:
        return _SUBSTITUTES[char]
    letters = unicodedata.normalize("NFKD", char).encode("ascii", "ignore").decode()
    return letters or "?"


def flush_streams() -> None:
    """Write what is left in the streams; a reader that is gone is no error."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError, AttributeError):  # closed, or none
            stream.flush()


def reader_is_gone(stream: TextIO | None) -> bool:
    """Return whether a stream is a pipe whose reading end is closed."""
    import select

    try:
        poll = select.poll()
        poll.register(stream.fileno() if stream else -1, select.POLLOUT)
        return any(event & select.POLLERR for _, event in poll.poll(0))
    except (AttributeError, OSError, ValueError):  # no such stream, or no poll on this system
        return False
