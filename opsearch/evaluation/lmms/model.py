"""A model under a policy, for lmms-eval's command line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lmms_eval.api.model import lmms

from opsearch.evaluation.lmms.answering import kept_failures
from opsearch.evaluation.lmms.wrappers import load_wrapper
from opsearch.models.pruned.checks import check_fits, check_full_size
from opsearch.models.spec import ModelSpec
from opsearch.policy.policy import Policy


class PrunedModel(lmms):  # type: ignore[misc]
    """The stock wrapper of a model's family, answering under a policy.

    Args:
        policy: A run folder or policy file.
        pretrained: demo, a local folder or a hub id.
        dtype: Data type of the weights.
        device: Device of the model.
        batch_size: Must be 1.
        max_batch_size: Ignored; lmms-eval passes it.
    """

    is_simple = False

    def __init__(
        self,
        policy: str,
        pretrained: str,
        dtype: str = "bfloat16",
        device: str = "cuda",
        batch_size: int | str = 1,
        max_batch_size: int | None = None,
    ) -> None:
        super().__init__()
        if int(batch_size) != 1:
            raise ValueError(
                f"batch_size {batch_size} changes answers by padding; give --batch_size 1"
            )
        self.policy = Policy.from_pretrained(Path(policy))
        check_full_size(self.policy, "lmms-eval")
        spec = ModelSpec(pretrained, dtype, device)
        check_fits(self.policy, spec.load_config())
        self.wrapper = load_wrapper(spec)
        self.wrapper.task_dict = self.task_dict
        self.accelerator, self.device = self.wrapper.accelerator, self.wrapper.device

    def generate_until(self, requests: list[Any]) -> Any:
        """Return the stock wrapper's answers under the policy; its failures are raised."""
        with self.policy.apply(self.wrapper.model), kept_failures(self.wrapper.model) as failures:
            answers = self.wrapper.generate_until(requests)
        if failures:
            raise failures[0]
        return answers

    def loglikelihood(self, requests: list[Any]) -> Any:
        """Raise NotImplementedError: a policy prunes a prompt, not a continuation to be scored."""
        raise NotImplementedError("under a policy only generated answers can be evaluated")

    generate_until_multi_round = loglikelihood
