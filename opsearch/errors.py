"""What a user is told is wrong: one sentence with the value, the reason and the next step."""


class OpsearchError(Exception):
    """Base of all errors whose message is meant for the user."""


class DataError(OpsearchError):
    """A data file, an item or an image cannot be used."""


class PolicyError(OpsearchError):
    """A policy is malformed or does not fit the model or the request."""


class ModelError(OpsearchError):
    """A model is unsupported, or what it computes cannot be used."""


class RunFolderError(OpsearchError):
    """A run folder or its measurement store cannot be read, written or locked."""


class InfeasibleBudgetError(OpsearchError):
    """No policy of the space keeps within the budget; the message states the achievable range."""


class UnknownNameError(OpsearchError):
    """A part was asked for by a name that nobody registered."""

    def __init__(self, kind: str, name: str, known: list[str]) -> None:
        super().__init__(f"unknown {kind} {name!r}; available: {', '.join(sorted(known))}")
