"""What a search of a policy set measured, in a file beside the set: measured.safetensors.

With it, sets of other sizes and for other mixes of questions are chosen without the model.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from opsearch.adaptive import DEFAULT_SELECTOR
from opsearch.adaptive.table import Part, Table, Values
from opsearch.errors import RunFolderError
from opsearch.files import write_atomic
from opsearch.formatting import screen_repr

FOLDER, FILE_NAME = "adaptive", "measured.safetensors"
"""Folder of a set in its run folder, and name of the file in it."""
ONE, ORIGINAL = 0, 1
"""Numbers of the run's policy and of the original among the policies to choose from."""


@dataclass(frozen=True, eq=False)
class Measured:
    """Policies to choose from, and what they do on the samples of a run.

    Attributes:
        limit: Largest mean cost, as a share of the original's.
        budgets: For each policy the budget that it was searched for; "" for the original.
        calibration: Samples to choose on.
        heldout: Samples that have no part in a choice; there may be none.
    """

    limit: float
    budgets: tuple[str, ...]
    calibration: Part
    heldout: Part

    __repr__ = screen_repr

    def save(self, folder: Path) -> Path:
        """Write the file into a folder and return its path."""
        from safetensors.numpy import save_file

        parts = {"calibration": self.calibration, "heldout": self.heldout}
        tensors = {
            f"{name}.{key}": np.ascontiguousarray(values)
            for name, part in parts.items()
            for key, values in _values(part).items()
        }
        facts = _Facts(
            limit=self.limit,
            budgets=self.budgets,
            selector=self.calibration.table.reads,
            kinds={name: part.kinds for name, part in parts.items()},
        )
        metadata = {"facts": facts.model_dump_json()}
        path = folder / FILE_NAME
        write_atomic(path, lambda file: save_file(tensors, file, metadata=metadata))
        return path

    @classmethod
    def load(cls, folder: Path) -> Measured:
        """Read the file of a folder.

        Raises:
            RunFolderError: The file is missing, damaged, or of another kind.
        """
        from safetensors import SafetensorError, safe_open

        path = folder / FILE_NAME
        try:
            with safe_open(path, "numpy") as file:
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
                facts = _Facts.model_validate_json((file.metadata() or {}).get("facts", ""))
            parts = [_part(name, tensors, facts) for name in ("calibration", "heldout")]
        except FileNotFoundError:
            raise RunFolderError(
                f"{path} does not exist; run `opsearch adapt RUN`, which measures it"
            ) from None
        except OSError as error:
            raise RunFolderError(f"{path} cannot be read ({error}); check the path") from error
        except (SafetensorError, ValidationError, ValueError, KeyError) as error:
            raise RunFolderError(
                f"{path} is damaged or of another kind; run `opsearch adapt RUN` again, which "
                "measures nothing twice"
            ) from error
        return cls(facts.limit, facts.budgets, *parts)


class _Facts(BaseModel):
    model_config = ConfigDict(extra="forbid")
    limit: float
    budgets: tuple[str, ...]
    selector: str = DEFAULT_SELECTOR
    kinds: dict[str, tuple[str, ...]]


def _values(part: Part) -> dict[str, Any]:
    """Return the arrays of a part by name."""
    table = part.table
    found = {"features": table.features, "loss": table.loss, "cost": table.cost, "kl": part.kl}
    return found if part.scores is None else found | {"scores": part.scores}


def _part(name: str, tensors: dict[str, Values], facts: _Facts) -> Part:
    """Return a part, or raise KeyError or ValueError where arrays are missing or misshapen."""
    kinds = facts.kinds[name]
    features = np.asarray(tensors[f"{name}.features"], np.float32)
    loss, cost, kl = (tensors[f"{name}.{key}"] for key in ("loss", "cost", "kl"))
    scores = tensors.get(f"{name}.scores")
    shape = (len(kinds), len(facts.budgets))
    given = [each for each in (loss, cost, kl, scores) if each is not None]
    if len(features) != len(kinds) or any(each.shape != shape for each in given):
        raise ValueError(f"the arrays of {name} are not {shape}")
    return Part(Table(features, loss, cost, facts.selector), kl, kinds, scores)
