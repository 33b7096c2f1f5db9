"""`opsearch generate`: one prompt, answered by the original and under a policy."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from opsearch.costs.base import policy_cost
from opsearch.costs.flops import Flops
from opsearch.costs.kv import KVBytes
from opsearch.costs.shape import Shape
from opsearch.data.embedded import embedded
from opsearch.data.item import Item
from opsearch.errors import DataError
from opsearch.evaluation.answers import greedy, words
from opsearch.models.encoding import Sample, encode
from opsearch.models.loading import (
    check_attention,
    check_device,
    load_config,
    load_processor,
    load_weights,
)
from opsearch.models.pruned.checks import check_fits
from opsearch.policy.policy import Policy
from opsearch.progress import Progress
from opsearch.runs.config import policy_settings


@dataclass(frozen=True)
class Answered:
    """One side's answer and its number of tokens, that of the end included.

    flops, kv_bytes: of the prompt's prefill, by the cost model.
    """

    text: str
    new_tokens: int
    flops: int
    kv_bytes: int


@dataclass(frozen=True)
class Trial:
    """A prompt and what both sides answer."""

    sample: Sample
    applied: Policy
    original: Answered
    policy: Answered


def generate(
    path: Path,
    images: Sequence[Path] = (),
    prompt: str | None = None,
    max_new_tokens: int = 64,
    console: Console | None = None,
    **loaded_as: str | None,
) -> Trial:
    """Answer a prompt greedily with the original, and with the policy of a run folder or file.

    images, prompt: without both, an item of the embedded tasks' held-out split, for the embedded
    model alone. loaded_as: model, dtype, device and attention; what is None is as in the run, and
    as by default where the policy is no run's. Raises DataError, PolicyError, ModelError.
    """
    stages = Progress(console or Console(stderr=True, markup=False), 3)
    policy, run = Policy.from_pretrained(path), policy_settings(path, **loaded_as)
    check_device(run.device, run.dtype)
    check_attention(run.attention, run.dtype, run.device)
    item = _item(images, prompt, run.model)
    config, processor = load_config(run.model), load_processor(run.model)
    check_fits(policy, config)
    (sample,) = encode([item], processor, config)
    with stages.stage("loading the model"):
        model = load_weights(run.model, run.dtype, run.device, run.attention)
    costs = Flops(shape := Shape.from_config(model.config)), KVBytes(shape)

    def answered(title: str, applied: Policy | None) -> Answered:
        with stages.stage(title), applied.apply(model) if applied else nullcontext():
            tokens = greedy(model, [sample], max_new_tokens)
        took = [
            policy_cost(cost, applied, *sample.shape) if applied else cost.stock(*sample.shape)
            for cost in costs
        ]
        return Answered(words(processor, tokens)[0], tokens.shape[1], *took)

    original = answered("answering with the original", None)
    return Trial(sample, policy, original, answered("answering with the policy", policy))


def _item(images: Sequence[Path], prompt: str | None, model: str) -> Item:
    """The pictures and the prompt, or the first held-out item for the embedded model."""
    if not images and prompt is None and model == "demo":
        return embedded("held-out", 1)[0]
    if not images:
        raise DataError(
            "no picture was given; give one or more, and a question about them, as --image a.jpg "
            "--prompt 'What is this?'; only the embedded model comes with questions of its own"
        )
    if not (prompt or "").strip():
        raise DataError(
            f"the prompt {prompt or ''!r} is empty; give a question, as --prompt 'What is this?'"
        )
    return Item("1", prompt or "", (), tuple(images))
