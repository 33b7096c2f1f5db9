"""Operations that a prefill executes: those of the answer, or those of the rows of all tokens.

No answer depends on the last operations of visual tokens, which are dead. They decide the logits of
visual tokens, and run only where a caller receives these.

A prefill may have several policies, of which each sample runs one that a selector chooses.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from typing import Any, Protocol

from opsearch.errors import OpsearchError, PolicyError, shortened
from opsearch.models.families import ModelFamily
from opsearch.policy.policy import Policy
from opsearch.policy.schedule import Reranking
from opsearch.rankers.base import PROMPT_NEEDS, Prompt, Ranker
from opsearch.rankers.of_policy import decoder_needs, decoder_rerankings, policy_ranker


class ResolvedPolicy:
    """A policy resolved for samples, cached by number of visual tokens.

    Args:
        policy: The policy.
        all_rows: True if the hidden states of visual tokens are a result too; no operation is dead
            then.
    """

    def __init__(self, policy: Policy, *, all_rows: bool = False) -> None:
        self.is_identity = cache(policy.is_identity)
        self.schedule = cache(partial(policy.schedule, all_rows=all_rows))
        self.executed = cache(policy.resolve if all_rows else policy.executed)


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


class Selector(Protocol):
    """Chooses one of several policies for each sample, before the decoder."""

    @property
    def needs(self) -> frozenset[str]:
        """Inputs that the selector reads, see `Ranker.needs`."""

    def choose(self, prompt: Prompt) -> Sequence[int]:
        """Return the index of each sample's policy."""


@dataclass(frozen=True, eq=False)
class Executions:
    """The operations of each of several policies, of which a sample runs one.

    Attributes:
        each: The operations, of one policy at least.
        selector: Chooses among them; None: there is one.
    """

    each: Sequence[Execution]
    selector: Selector | None = None

    @property
    def needs(self) -> frozenset[str]:
        """Inputs of the rankers and of the selector."""
        own = self.selector.needs if self.selector else frozenset[str]()
        return own.union(*(execution.needs for execution in self.each))

    def are_identity(self, n_visual: int) -> bool:
        """Return whether no policy prunes a sample of `n_visual` tokens."""
        return all(execution.resolved.is_identity(n_visual) for execution in self.each)

    def check(self) -> None:
        """Raise PolicyError unless the operations of all policies can be executed."""
        for execution in self.each:
            execution.check()

    def check_captured(self, prompt: Prompt) -> None:
        """Raise PolicyError unless the vision tower gave rankers and selector their inputs."""
        missing = self.needs - PROMPT_NEEDS - prompt.captured.keys()
        if missing:
            raise PolicyError(
                f"the ranker needs {', '.join(sorted(missing))}, but the image features were "
                "computed before the policy was applied, or by a compiled model without its hooks; "
                "pass pixel_values under the policy, to the model itself"
            )

    def of_samples(self, prompt: Prompt) -> list[Execution]:
        """Return the operations that each sample runs."""
        if self.selector is None:
            return [self.each[0]] * len(prompt.n_visual)
        return [self.each[index] for index in self.selector.choose(prompt)]


def all_executions(
    model: Any, family: ModelFamily, policies: Sequence[Policy], selector: Selector | None
) -> tuple[Executions, Executions]:
    """Return the operations of each policy's answer, and those of all rows.

    Raises:
        PolicyError: A ranker of an answer cannot act at its layer, or is missing, or two policies
            have different ones inside the decoder.
        ModelError: The model cannot provide the inputs of a ranker of an answer or of the selector.
    """
    if selector is not None:
        family.check_needs(model.config, selector.needs)
    first: dict[int, Reranking] = {}
    for reranking in (each for policy in policies for each in decoder_rerankings(policy)):
        check_same_ranker(first.setdefault(reranking.layer, reranking), reranking)
    answer, all_rows = zip(*(executions(model, family, each) for each in policies), strict=True)
    return Executions(answer, selector), Executions(all_rows, selector)


def check_same_ranker(one: Reranking, other: Reranking) -> None:
    """Raise PolicyError if two rerankings of a layer differ in their ranker.

    A layer has one ranker for all samples of a batch.
    """
    if (one.spec, one.attention_layer) != (other.spec, other.attention_layer):
        raise PolicyError(
            f"two policies of a set rerank before layer {one.layer} by different rankers, "
            f"{shortened(one.spec)} and {shortened(other.spec)}; give them one ranker there, or "
            "rankers before the decoder"
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
