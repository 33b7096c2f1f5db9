"""A set of policies of which each request runs one."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from opsearch.adaptive.linear import MOST, LinearSelector
from opsearch.errors import PolicyError, UnknownNameError, echo
from opsearch.formatting import screen_repr
from opsearch.policy.policy import Policy

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from opsearch.models.pruned.applied import Installed
    from opsearch.models.pruned.cuda_graphs import Graphs


@dataclass(frozen=True, eq=False)
class PolicySet:
    """A few policies, and a selector that gives each sample of a batch one of them.

    Attributes:
        policies: One to MOST policies for the same model.
        selector: Chooses among them by the request.
        provenance: Facts for readers of the file (budget, samples, ...).
        kinds: Index of the policy for each kind of question that a caller may name, see `of_kind`.

    Raises:
        PolicyError: The policies are too many or do not belong together, or the selector chooses
            among another number.
    """

    policies: tuple[Policy, ...]
    selector: LinearSelector
    provenance: Mapping[str, Any] = field(default_factory=dict)
    kinds: Mapping[str, int] = field(default_factory=dict)

    __repr__ = screen_repr

    def __post_init__(self) -> None:
        object.__setattr__(self, "policies", tuple(self.policies))
        if not 1 <= len(self.policies) <= MOST:
            raise PolicyError(
                f"a set of {len(self.policies)} policies is not one of 1 to {MOST}; give as many"
            )
        if self.selector.policies != len(self.policies):
            raise PolicyError(
                f"the selector chooses among {self.selector.policies} policies, the set has "
                f"{len(self.policies)}; fit a selector for these"
            )
        for kind, index in self.kinds.items():
            if not 0 <= index < len(self.policies):
                raise PolicyError(
                    f"kind {echo(kind)} has policy {index} of a set of {len(self.policies)}, "
                    "counted from 0; give the index of one of them"
                )
        for what, found in (
            ("numbers of layers", {policy.num_layers for policy in self.policies}),
            ("families", {policy.model_type for policy in self.policies}),
            ("image settings", {policy.images for policy in self.policies}),
        ):
            if len(found) > 1:
                listed = " and ".join(sorted(map(str, found)))
                raise PolicyError(
                    f"the policies of a set have different {what}, {listed}; give policies that "
                    "were searched for one model, with the same images"
                )

    def of_kind(self, kind: str) -> Policy:
        """Return the policy for a kind of question that the caller knows, e.g. "ocr".

        Apply it in place of the set, whose selector then has no say. Each kind has the policy that
        was best on its calibration samples within the mean cost over all kinds.

        Raises:
            UnknownNameError: The set was chosen without questions of this kind.
        """
        if kind not in self.kinds:
            raise UnknownNameError("kind of question", kind, list(self.kinds))
        return self.policies[self.kinds[kind]]

    def apply(
        self, model: PreTrainedModel, *, graphs: Graphs | None = None
    ) -> AbstractContextManager[PreTrainedModel]:
        """Return a context manager that prunes each sample by its own policy, as `Policy.apply`.

        Args:
            model: A model of a supported family.
            graphs: CUDA graphs to replay for prompts of equal shapes and policies.
        """
        from opsearch.models.pruned.applied import Applied

        return Applied(model, self.policies, graphs, self.selector)

    def install(self, model: PreTrainedModel, *, graphs: Graphs | None = None) -> Installed:
        """Make `model` prefill with this set until `remove()` of the handle, as `Policy.install`.

        Args:
            model: A model of a supported family.
            graphs: CUDA graphs to replay for prompts of equal shapes and policies.

        Raises:
            PolicyError: The set does not fit the model, or another policy is already applied.
            ModelError: The model cannot be pruned.
        """
        from opsearch.models.pruned.applied import Installed

        return Installed(model, self.policies, graphs, self.selector)

    def digest(self) -> str:
        """Return a digest of all that answers depend on in the set (SHA-256)."""
        texts = [*(policy.digest() for policy in self.policies), self.selector.reads]
        found = hashlib.sha256("".join(texts).encode())
        for part in (self.selector.weights, self.selector.bias):
            found.update(part.tobytes())
        return found.hexdigest()

    def save_pretrained(self, folder: str | Path) -> Path:
        """Write the files of the set into `folder` (created if missing); return that of policies.

        Raises:
            RunFolderError: The folder cannot be written.
        """
        from opsearch.adaptive.file import write_set

        return write_set(self, Path(folder))

    @classmethod
    def from_pretrained(cls, path: str | Path) -> PolicySet:
        """Read a set from the folder that `save_pretrained` wrote, or from its policy_set.json.

        Raises:
            PolicyError: A file is missing, damaged, or of another format.
        """
        from opsearch.adaptive.file import FILE_NAME, read_fields

        given = Path(path)
        return cls(**read_fields(given.parent if given.name == FILE_NAME else given))
