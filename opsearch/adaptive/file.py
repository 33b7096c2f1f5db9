"""The files of a policy set: policy_set.json, and selector.safetensors beside it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from opsearch.adaptive import DEFAULT_SELECTOR
from opsearch.adaptive.linear import MOST, LinearSelector, Weights
from opsearch.errors import PolicyError, echo, shortened
from opsearch.files import write_atomic, write_text
from opsearch.policy.file import SET_FILE, policy_text
from opsearch.policy.policy import Policy

if TYPE_CHECKING:
    from opsearch.adaptive.policy_set import PolicySet

FILE_NAME, SELECTOR = SET_FILE, "selector.safetensors"
FORMAT_VERSION = 1
_TENSORS = {"weights": 2, "bias": 1}  # and their dimensions


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid")
    policy_type: Literal["opsearch set"]
    format_version: int
    selector: str = DEFAULT_SELECTOR
    policies: list[dict[str, Any]] = Field(min_length=1, max_length=MOST)
    kinds: dict[str, int] = {}
    provenance: dict[str, Any] = {}


def write_set(policies: PolicySet, folder: Path) -> Path:
    """Write both files into `folder` and return the path of policy_set.json."""
    from safetensors.numpy import save_file

    content = {
        "policy_type": "opsearch set",
        "format_version": FORMAT_VERSION,
        "selector": policies.selector.reads,
        "policies": [json.loads(policy_text(policy)) for policy in policies.policies],
        "kinds": dict(policies.kinds),
        "provenance": dict(policies.provenance),
    }
    selector = policies.selector
    tensors = {"weights": selector.weights, "bias": selector.bias}
    write_atomic(folder / SELECTOR, lambda file: save_file(tensors, file))
    return write_text(folder / FILE_NAME, json.dumps(content, indent=2, sort_keys=True) + "\n")


def read_fields(folder: Path) -> dict[str, Any]:
    """Return the fields of the set that `write_set` wrote into a folder.

    Raises:
        PolicyError: A file is missing, damaged, or of another format.
    """
    file = folder / FILE_NAME
    try:
        raw = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise PolicyError(f"{file} does not exist; give a folder with {FILE_NAME}") from None
    except OSError as error:
        raise PolicyError(f"{file} cannot be read ({error.strerror}); check the path") from error
    except (ValueError, RecursionError) as error:
        raise PolicyError(f"{file} is damaged ({error}); save the set again") from error
    version = raw.get("format_version") if isinstance(raw, dict) else None
    if isinstance(version, int) and version > FORMAT_VERSION:
        raise PolicyError(
            f"{file} has format {echo(version)}, but this opsearch reads formats up to "
            f"{FORMAT_VERSION}; update opsearch"
        )
    try:
        content = _File.model_validate(raw)
    except ValidationError as error:
        problem = error.errors()[0]
        key = shortened(".".join(str(part) for part in problem["loc"]))
        raise PolicyError(f"{file} is no valid set: {key}: {problem['msg']}; save it again") from (
            error
        )
    policies = [Policy.from_text(json.dumps(each), file) for each in content.policies]
    tensors = _read_tensors(folder / SELECTOR)
    selector = LinearSelector(tensors["weights"], tensors["bias"], content.selector)
    return {
        "policies": tuple(policies),
        "selector": selector,
        "kinds": content.kinds,
        "provenance": content.provenance,
    }


def _read_tensors(file: Path) -> dict[str, Weights]:
    """Return the selector's tensors by name, or raise PolicyError."""
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        found = load_file(file)
    except FileNotFoundError:
        raise PolicyError(f"{file} does not exist, which belongs to {FILE_NAME}") from None
    except OSError as error:
        raise PolicyError(f"{file} cannot be read ({error}); check the path") from error
    except SafetensorError as error:
        raise PolicyError(f"{file} is damaged ({error}); save the set again") from error
    shapes = {name: each.ndim for name, each in found.items()}
    types = {each.dtype for each in found.values()}
    if shapes != _TENSORS or types != {np.dtype(np.float32)}:
        raise PolicyError(
            f"{file} does not hold the float32 tensors weights [K, F] and bias [K] alone; save "
            "the set again"
        )
    return found
