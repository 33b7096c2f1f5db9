"""`opsearch generate`: answer one prompt with the original and with a policy."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from opsearch.adaptive.load import load_method, members
from opsearch.adaptive.policy_set import PolicySet
from opsearch.adaptive.read import choose
from opsearch.console import PlainConsole
from opsearch.costs.base import policy_cost
from opsearch.costs.flops import Flops
from opsearch.costs.kv import KVBytes
from opsearch.costs.shape import Shape
from opsearch.data.embedded import embedded
from opsearch.data.item import Item
from opsearch.errors import DataError, echo
from opsearch.evaluation.answers import decoded, end_tokens, greedy
from opsearch.formatting import screen_repr
from opsearch.models.answer_length import length
from opsearch.models.encoding import Sample, encode
from opsearch.models.image_settings import encode_for
from opsearch.models.positions import check_positions
from opsearch.models.pruned.checks import check_fits
from opsearch.policy.policy import Policy
from opsearch.progress import Progress
from opsearch.runs.config import policy_settings


@dataclass(frozen=True)
class Answered:
    """An answer and its costs.

    Attributes:
        text: The answer.
        new_tokens: Number of generated tokens, including the end token.
        cut: True if the answer reached the maximum number of tokens without an end token.
        flops: FLOPs of the prefill, by the cost model.
        kv_bytes: KV cache after the prefill in bytes, by the cost model.
    """

    text: str
    new_tokens: int
    cut: bool
    flops: int
    kv_bytes: int

    __repr__ = screen_repr


@dataclass(frozen=True)
class Trial:
    """A prompt with the answers of original and policy.

    Attributes:
        sample: The prompt.
        read: The prompt as the policy reads it, with its image setting.
        applied: The policy, of a set the one that the prompt gets.
        of_set: Its number and the number of policies, e.g. "2 of 4"; empty without a set.
        original: Answer of the original.
        policy: Answer under the policy.
    """

    sample: Sample
    read: Sample
    applied: Policy
    original: Answered
    policy: Answered
    of_set: str = ""

    __repr__ = screen_repr


def generate(
    path: Path,
    images: Sequence[Path] = (),
    prompt: str | None = None,
    max_new_tokens: int = 64,
    console: Console | None = None,
    **loaded_as: str | None,
) -> Trial:
    """Answer a prompt greedily with the original and with a policy, or a set of policies.

    Args:
        path: Run folder, policy file, or folder of a policy set.
        images: Image files.
        prompt: The question; without images and prompt, a held-out sample of the embedded tasks,
            for the embedded model only.
        max_new_tokens: Maximum number of tokens per answer.
        console: Console for progress; None: standard error.
        **loaded_as: model, dtype, device and attention; None: as in the run, or the default if the
            policy belongs to no run.

    Raises:
        OpsearchError: Policy, model or prompt cannot be used.
    """
    progress = Progress(console or PlainConsole(stderr=True), 3)
    method, run = load_method(path), policy_settings(path, **loaded_as)
    policies = members(method)
    spec = run.model_spec
    spec.check()
    item = _item(images, prompt, spec.name)
    config, processor = spec.load_config(), spec.load_processor()
    for policy in policies:
        check_fits(policy, config)
    (sample,) = encode([item], processor, config, say=progress.say)
    check_positions([sample], config, max_new_tokens, "--max-new-tokens")
    (read,) = encode_for(policies[0], [sample], processor, config)
    with progress.stage("loading the model"):
        model = spec.load()
    costs = Flops(shape := Shape.from_config(model.config)), KVBytes(shape)
    chosen = choose(method, model, [read])[0] if isinstance(method, PolicySet) else 0

    def answered(title: str, prompt: Sample, applied: Policy | None) -> Answered:
        with progress.stage(title), method.apply(model) if applied else nullcontext():
            tokens: list[list[int]] = greedy(model, [prompt], max_new_tokens).tolist()
        size = length(tokens[0], max_new_tokens, end_tokens(model))
        took = [
            policy_cost(cost, applied, *prompt.shape) if applied else cost.stock(*prompt.shape)
            for cost in costs
        ]
        return Answered(decoded(processor, tokens)[0], *size, *took)

    original = answered("answering with the original", sample, None)
    pruned = answered("answering with the policy", read, policies[chosen])
    of_set = f"{chosen + 1} of {len(policies)}" if isinstance(method, PolicySet) else ""
    return Trial(sample, read, policies[chosen], original, pruned, of_set=of_set)


def _item(images: Sequence[Path], prompt: str | None, model: str) -> Item:
    """Return images and prompt, or the first held-out item for the embedded model."""
    if not images and prompt is None and model == "demo":
        return embedded("held-out", 1)[0]
    if not images:
        raise DataError(
            "no image was given, and only the embedded model has questions of its own; give images "
            "and a question, e.g. --image a.jpg --prompt 'What is this?'"
        )
    if not (prompt or "").strip():
        raise DataError(
            f"the prompt {echo(prompt or '')} is empty; give a question, e.g. --prompt 'What is "
            "this?'"
        )
    return Item("1", prompt or "", (), tuple(images))
