"""prefill.json: prefill times of compared methods; reading it loads no model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from opsearch.errors import RunFolderError
from opsearch.evaluation.reducers import Reduction
from opsearch.policy.policy import Policy


@dataclass(frozen=True)
class PrefillTime:
    """Medians over generations of original and policy in alternation.

    Attributes:
        original: Decoder and lm_head of the original up to the first token, ms.
        policy: The same for the policy, including `ranking`, ms.
        ratio: Policy to original, pair by pair.
        ranking: Selection of the visual tokens, ms; about 0 for a reducer.
    """

    original: float
    policy: float
    ratio: float
    ranking: float


class PrefillFile(BaseModel):
    """Content of prefill.json.

    Attributes:
        place: Description of the machine and of the model.
        item: Digest of the timed sample.
        n_visual: Number of its visual tokens.
        times: Times by `method_key`.
    """

    model_config = ConfigDict(extra="forbid", strict=True)
    place: str
    item: str
    n_visual: int
    times: dict[str, PrefillTime]


def prefill_time(method: Policy | Reduction, path: Path) -> PrefillTime | None:
    """Return the time of a method, None if the file lacks it.

    Raises:
        RunFolderError: The file is damaged.
    """
    if not path.exists():
        return None
    known = read_prefills(path)
    return known.times.get(method_key(method, known.n_visual))


def method_key(method: Policy | Reduction, n_visual: int) -> str:
    """Return the key of a method's times."""
    return method.key if isinstance(method, Reduction) else method.canonical(n_visual)


def read_prefills(path: Path) -> PrefillFile:
    """Read the file.

    Raises:
        RunFolderError: The file is damaged.
    """
    try:
        return PrefillFile.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        reason = " ".join(str(error).split())
        raise RunFolderError(
            f"{path} cannot be read as prefill times ({reason}); remove it and compare again"
        ) from error
