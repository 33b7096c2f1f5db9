"""Operations that a prefill executes: those of the answer, or those of the rows of all tokens.

No answer depends on the last operations of visual tokens, which are dead. They decide the logits of
visual tokens, and run only where a caller receives these.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from opsearch.errors import OpsearchError, PolicyError
from opsearch.models.families import ModelFamily
from opsearch.models.pruned.ranking import ResolvedPolicy
from opsearch.policy.policy import Policy
from opsearch.rankers.base import PROMPT_NEEDS, Prompt, Ranker
from opsearch.rankers.of_policy import decoder_needs, policy_ranker


@dataclass(frozen=True, eq=False)
class Execution:
    """Operations of a policy, and its ranker before the decoder.

    Attributes:
        resolved: The policy.
        ranker: Ranker before the decoder, None if no ranking is needed.
        error: Why the operations cannot be executed, None if they can.
    """

    resolved: ResolvedPolicy
    ranker: Ranker | None = None
    error: OpsearchError | None = field(default=None)

    @property
    def needs(self) -> frozenset[str]:
        """Inputs of the ranker."""
        return self.ranker.needs if self.ranker else frozenset()

    def check(self) -> None:
        """Raise PolicyError unless the operations can be executed."""
        if self.error is not None:
            raise PolicyError(
                f"the logits of visual tokens are not available under this policy ({self.error}); "
                "pass logits_to_keep=1 for those of the last token alone"
            )

    def check_captured(self, prompt: Prompt) -> None:
        """Raise PolicyError unless the vision tower gave the ranker its inputs."""
        missing = self.needs - PROMPT_NEEDS - prompt.captured.keys()
        if missing:
            raise PolicyError(
                f"the ranker needs {', '.join(sorted(missing))}, but the image features were "
                "computed before the policy was applied, or by a compiled model without its hooks; "
                "pass pixel_values under the policy, to the model itself"
            )


def executions(model: Any, family: ModelFamily, policy: Policy) -> tuple[Execution, Execution]:
    """Return the operations of the answer, and those of all rows.

    Raises:
        PolicyError: A ranker of the answer cannot act at its layer, or is missing.
        ModelError: The model cannot provide the inputs of a ranker of the answer.
    """
    answer = _execution(model, family, policy, all_rows=False)
    try:
        return answer, _execution(model, family, policy, all_rows=True)
    except OpsearchError as error:
        return answer, Execution(ResolvedPolicy(policy, all_rows=True), error=error)


def _execution(model: Any, family: ModelFamily, policy: Policy, *, all_rows: bool) -> Execution:
    ranker = policy_ranker(policy, all_rows=all_rows)
    needs = ranker.needs if ranker else frozenset[str]()
    family.check_needs(model.config, needs | decoder_needs(policy, all_rows=all_rows))
    return Execution(ResolvedPolicy(policy, all_rows=all_rows), ranker)
