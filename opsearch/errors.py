"""Errors for users. A message is one sentence with the value, the reason and the next step."""


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
    """No part has the requested name; the message lists the available ones."""

    def __init__(self, kind: str, name: str, known: list[str]) -> None:
        super().__init__(f"unknown {kind} {name!r}; available: {', '.join(sorted(known))}")
