"""Errors for users. A message is one sentence with the value, the reason and the next step."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from difflib import get_close_matches
from itertools import chain

MOST_ECHOED = 40
"""Characters of a value that a message repeats."""
PATH = 200
"""The same for names that may be paths, which are hard to recognise in part."""

# C0 but for tab and line feed, DEL, C1, and marks that change the direction of text.
_MARKS = (0x61C, 0x200E, 0x200F)
_CONTROLS = dict.fromkeys(
    chain(
        range(9),
        range(11, 32),
        range(127, 160),
        _MARKS,
        range(0x202A, 0x202F),
        range(0x2066, 0x206A),
    )
)


def without_controls(text: str) -> str:
    """Return a text without control characters, so that it cannot change the terminal."""
    return text if text.isascii() and text.isprintable() else text.translate(_CONTROLS)


def one_line(text: object) -> str:
    """Return a name from a file on one line, without control characters."""
    return " ".join(without_controls(str(text)).split())


def echo(value: object, most: int = MOST_ECHOED) -> str:
    """Return a user's value as a message repeats it: a text in quotes, at most `most` characters.

    Control characters of a text are written as escapes.
    """
    if isinstance(value, str):
        return repr(value) if len(value) <= most else f"{value[: most - 3]!r}..."
    if isinstance(value, int) and value.bit_length() > 4 * most:
        return f"a number of about {round(value.bit_length() * 0.301)} digits"
    shown = _written(value, repr)
    return shown if len(shown) <= most else f"{shown[: most - 3]}..."


def shortened(value: object, most: int = MOST_ECHOED) -> str:
    """Return a value as `echo` does, a text without quotes and on one line."""
    text = echo(value, most) if isinstance(value, int) else one_line(_written(value, str))
    return text if len(text) <= most else f"{text[: most - 3]}..."


def _written(value: object, write: Callable[[object], str]) -> str:
    """Return a value as text; its type if it holds numbers of too many digits for Python."""
    try:
        return write(value)
    except ValueError:
        return f"a {type(value).__name__}"


class OpsearchError(Exception):
    """Base class of all errors with a message for the user, without control characters.

    PolicyError is a ValueError too, because it takes the place of those of transformers where a
    model is called under a policy. The others are not: no caller of transformers expects them, and
    validators of settings would rephrase them.
    """

    def __init__(self, *parts: object) -> None:
        super().__init__(*(without_controls(p) if isinstance(p, str) else p for p in parts))


class DataError(OpsearchError):
    """A data file, an item or an image cannot be used."""


class PolicyError(OpsearchError, ValueError):
    """A policy is malformed or does not fit the model or the request."""


class ModelError(OpsearchError):
    """A model is unsupported, or its output cannot be used."""


class RunFolderError(OpsearchError):
    """A run folder or its measurement store cannot be read, written or locked."""


class InfeasibleBudgetError(OpsearchError):
    """No policy of the space is within the budget; the message states the achievable range."""


class UnknownNameError(OpsearchError):
    """No part has the requested name; the message names the nearest one and lists all."""

    def __init__(self, kind: str, name: str, known: list[str]) -> None:
        nearest = nearest_name(name, known)
        meant = f"; did you mean {nearest!r}?" if nearest else ";"
        listed, shown = ", ".join(sorted(known)), PATH if "/" in name else MOST_ECHOED
        super().__init__(f"unknown {kind} {echo(name, shown)}{meant} available: {listed}")


def nearest_name(name: str, known: Iterable[str]) -> str | None:
    """Return the known name most like a misspelt one, in any case; None if none is alike."""
    folded = {each.casefold(): each for each in known}
    if len(name) > PATH:  # comparing long texts takes long
        return None
    found = get_close_matches(name.casefold(), folded, n=1)
    return folded[found[0]] if found else None


_NO_MEMORY = ("DefaultCPUAllocator: ", "out of memory")  # in torch's RuntimeError on CPUs


def ran_out_of_memory(error: Exception) -> bool:
    """Return whether Python, NumPy or torch could not allocate memory, on any device."""
    # Compared by name, because importing torch takes seconds.
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _NO_MEMORY)


def memory_reason(error: Exception) -> str:
    """Return why memory could not be allocated, without torch's source line before it."""
    reason = " ".join(str(error).split()) or "no message"
    return reason.rpartition(_NO_MEMORY[0])[2]
