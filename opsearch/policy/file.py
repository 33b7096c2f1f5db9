"""Reading and writing of policy_config.json, the file of a policy."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
)

from opsearch.errors import PolicyError, echo, shortened
from opsearch.files import write_text
from opsearch.policy.counts import Unit, exact_count
from opsearch.policy.images import ImageSetting
from opsearch.policy.ranker import RankerSpec
from opsearch.version import __version__

if TYPE_CHECKING:
    from opsearch.policy.policy import Policy

FILE_NAME = "policy_config.json"
SET_FILE = "policy_set.json"  # of several policies, see opsearch.adaptive.file
FORMAT_VERSION = 2
_WITHOUT_IMAGES = 1  # versions that know no image settings read policies that have none

Count = Annotated[Any, BeforeValidator(exact_count)]


def _bounded(value: float | str | bool) -> float | str | bool:
    """Return a parameter; numbers are finite, and whole ones have at most 40 digits."""
    if isinstance(value, float | int) and not abs(value) < 10**40:
        raise ValueError(f"{echo(value)} is no number below 1e40; give another one")
    return value


class _Ranker(BaseModel):
    model_config = ConfigDict(extra="forbid")
    layer: int
    name: str
    params: dict[str, Annotated[int | float | str | bool, AfterValidator(_bounded)]] = {}


class _Images(BaseModel):
    model_config = ConfigDict(extra="forbid")
    share: Count
    attributes: dict[str, Annotated[int, Field(ge=1, lt=10**12)]]


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid")
    policy_type: Literal["opsearch"]
    format_version: int
    opsearch_version: str
    model_type: str | None
    num_hidden_layers: int
    name: str
    unit: Unit
    counts: list[tuple[Count, Count, Count]]
    rankers: list[_Ranker]
    images: _Images | None = None
    provenance: dict[str, Any] = {}


def write_policy(policy: Policy, folder: Path) -> Path:
    """Write policy_config.json into `folder` and return its path."""
    return write_text(folder / FILE_NAME, policy_text(policy))


def policy_text(policy: Policy) -> str:
    """Return the content of a policy's file."""
    content = {
        "policy_type": "opsearch",
        "format_version": _WITHOUT_IMAGES if policy.images is None else FORMAT_VERSION,
        "opsearch_version": __version__,
        "model_type": policy.model_type,
        "num_hidden_layers": policy.num_layers,
        "name": policy.name,
        "unit": policy.unit,
        "counts": [[str(count) for count in triple] for triple in policy.counts],
        "rankers": [
            {"layer": layer, "name": spec.name, "params": dict(spec.params)}
            for layer, spec in policy.rankers
        ],
        "provenance": dict(policy.provenance),
    }
    if policy.images is not None:
        attributes = dict(policy.images.attributes)
        content["images"] = {"share": str(policy.images.share), "attributes": attributes}
    return json.dumps(content, indent=2, sort_keys=True) + "\n"


def holds_set(path: Path) -> bool:
    """Return whether a path is that of a policy set: its file, or a folder of it alone."""
    return path.name == SET_FILE or ((path / SET_FILE).exists() and not (path / FILE_NAME).exists())


def read_fields(path: Path) -> dict[str, Any]:
    """Return the fields of the policy in a folder or file.

    Raises:
        PolicyError: The file is missing, truncated, malformed, or of a newer format.
    """
    file = path / FILE_NAME if path.is_dir() else path
    if holds_set(path):
        raise PolicyError(
            f"{path} holds a set of policies, and one policy is needed here; give the folder of a "
            "policy (PolicySet.from_pretrained, `opsearch eval` and `opsearch generate` take sets)"
        )
    try:
        text = file.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise PolicyError(f"{file} does not exist; give a folder with {FILE_NAME}") from None
    except OSError as error:
        raise PolicyError(f"{file} cannot be read ({error.strerror}); check the path") from error
    except ValueError as error:
        raise _damaged(file, error) from error
    return parse_fields(text, file)


def parse_fields(text: str, file: Path) -> dict[str, Any]:
    """Return the fields of a policy from a file's text.

    Raises:
        PolicyError: The text is not a policy; the message names the file.
    """
    try:
        raw = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _damaged(file, error) from error
    version = raw.get("format_version") if isinstance(raw, dict) else None
    if isinstance(version, int) and version > FORMAT_VERSION:
        raise PolicyError(
            f"{file} has format {echo(version)}, but this opsearch reads formats up to "
            f"{FORMAT_VERSION}; update opsearch"
        )
    try:
        content = _File.model_validate(raw)
    except ValidationError as error:
        raise PolicyError(f"{file} is not a valid policy: {_first(error)}") from error
    if len(content.counts) != content.num_hidden_layers:
        raise PolicyError(
            f"{file} states {content.num_hidden_layers} layers, but contains counts of "
            f"{len(content.counts)}; save the policy again"
        )
    return {
        "counts": tuple(content.counts),
        "unit": content.unit,
        "rankers": tuple(
            (r.layer, RankerSpec(r.name, tuple(sorted(r.params.items())))) for r in content.rankers
        ),
        "name": content.name,
        "model_type": content.model_type,
        "images": _setting(content.images),
        "provenance": content.provenance,
    }


def _setting(images: _Images | None) -> ImageSetting | None:
    if images is None:
        return None
    return ImageSetting(images.share, tuple(sorted(images.attributes.items())))


def _damaged(file: Path, error: Exception) -> PolicyError:
    return PolicyError(
        f"{file} is damaged or truncated ({error}); save the policy again; "
        "`opsearch solve RUN --replace` writes it without measuring"
    )


def _first(error: ValidationError) -> str:
    """Return the first validation error as one line."""
    problem = error.errors()[0]
    key = shortened(".".join(str(part) for part in problem["loc"]))
    return f"{key}: {problem['msg']}; correct that entry"
