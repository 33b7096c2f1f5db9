"""Errors for users. A message is one sentence with the value, the reason and the next step."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class OpsearchError(Exception):
    """Base class of all errors with a message for the user."""


class DataError(OpsearchError):
    """A data file, an item or an image cannot be used."""


class PolicyError(OpsearchError):
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
        super().__init__(f"unknown {kind} {name!r}{meant} available: {', '.join(sorted(known))}")


def nearest_name(name: str, known: Iterable[str]) -> str | None:
    """Return the known name most like a misspelt one, in any case; None if none is alike."""
    folded = {each.casefold(): each for each in known}
    found = get_close_matches(name.casefold(), folded, n=1)
    return folded[found[0]] if found else None
