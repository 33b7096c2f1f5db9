"""vLLM's models that can be served under a policy. Without one, they are vLLM's own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor
from vllm.model_executor.models import (
    interns1,
    llava,
    llava_next,
    llava_onevision,
    qwen2_5_vl,
    qwen3_vl,
)
from vllm.multimodal.inputs import PlaceholderRange

from opsearch.serving.decoder import prepare_decoder
from opsearch.serving.kept_keys import set_specs
from opsearch.serving.processor import pruned_processor
from opsearch.serving.prompt_rows import PromptShape
from opsearch.serving.runner import watch_runner
from opsearch.serving.served_policy import ServedPolicy, policy_of
from opsearch.serving.tower import CAPTURED, TowerCapture


class Serving:
    """State of a model that is served under a policy.

    Attributes:
        policy: The policy.
        model: vLLM's model.
        attention_names: Names of the attention layers of its decoder.
        step: The step that runs, None in dummy runs.
        tower: What is captured in the vision tower.
    """

    def __init__(self, policy: ServedPolicy, model: Any) -> None:
        self.policy, self.model = policy, model
        self.decoder = model.language_model.model
        self.step: Any = None
        self.tower = TowerCapture(model, policy.needs)
        prepare_decoder(self.decoder, self)
        set_specs(self.decoder, policy)
        self.attention_names = [layer.self_attn.attn.layer_name for layer in self.decoder.layers]
        watch_runner()

    def rank(self, tokens: Tensor, visual: Tensor, features: Sequence[Tensor]) -> Tensor:
        """Return the rank of each visual token of a prompt, int64[N].

        Args:
            tokens: Token ids of the whole prompt, int64[S].
            visual: Mask of its visual tokens, bool[S].
            features: Features of its images with captured columns, [n, D + columns] each; those
                that are added behind the first layers come between and are not ranked.
        """
        device = features[0].device
        embeds = self.decoder.embed_input_ids(tokens.to(device))
        visual = visual.to(device)
        split = [self.tower.split(each) for each in features]
        embeds[visual] = torch.cat([each[:, : embeds.shape[-1]] for each, _ in split])
        names = split[0][1]
        captured = {name: torch.cat([values[name] for _, values in split]) for name in names}
        sizes = torch.tensor([len(each) for each in features])
        captured["tiles"] = torch.arange(len(features)).repeat_interleave(sizes)
        return self.policy.rank(embeds, visual, captured)

    def positions(
        self, tokens: Tensor, shape: PromptShape, features: Sequence[Any]
    ) -> tuple[Tensor, int]:
        """Return the rotary positions of a whole prompt, and that of the first generated token.

        Args:
            tokens: Token ids of the whole prompt, int64[S].
            shape: Where its visual tokens are.
            features: vLLM's features of its images.
        """
        if not hasattr(self.model, "get_mrope_input_positions"):
            return torch.arange(len(tokens))[None], len(tokens)
        whole = [_whole(each, shape.dropped) for each in features]
        found, delta = type(self.model).stock_mrope_positions(self.model, tokens.tolist(), whole)
        return found, len(tokens) + int(delta)


def _whole(feature: Any, dropped: int) -> Any:
    """Return an image's feature with the rows that it has before any is dropped."""
    place = feature.mm_position
    embedded = place.is_embed
    if embedded is not None and dropped:
        embedded = PromptShape(embedded, int(embedded.sum()) + dropped).full(embedded)
    return replace(
        feature, mm_position=PlaceholderRange(place.offset, place.length + dropped, embedded)
    )


class Pruned:
    """Model that computes what a policy lists, if its config names one."""

    serving: Serving | None = None
    captured: ClassVar[frozenset[str]] = frozenset()  # ranker inputs from its vision tower

    def __init__(self, *, vllm_config: Any, prefix: str = "") -> None:
        super().__init__(vllm_config=vllm_config, prefix=prefix)  # type: ignore[call-arg]
        policy = policy_of(vllm_config.model_config.hf_config)
        if policy is not None:
            self.serving = Serving(policy, self)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the model as the family does; the decoder looks at the step."""
        try:
            return super().forward(*args, **kwargs)  # type: ignore[misc]
        finally:
            if self.serving is not None:
                self.serving.step = None


class PrunedMRoPE(Pruned):
    """Model with rotary positions of time, height and width."""

    def get_mrope_input_positions(self, tokens: list[int], features: Any) -> tuple[Tensor, int]:
        """Return positions of a prompt; under a policy each step has its own, so any will do."""
        if self.serving is None:
            return super().get_mrope_input_positions(tokens, features)  # type: ignore[misc, no-any-return]
        return torch.arange(len(tokens)).expand(3, -1), 0

    def stock_mrope_positions(self, tokens: list[int], features: Any) -> tuple[Tensor, int]:
        """Return the positions of a whole prompt."""
        return super().get_mrope_input_positions(tokens, features)  # type: ignore[misc, no-any-return]


def _served(model: Any) -> Any:
    """Give a model the processor of its family, which drops what no layer needs."""
    stock = model._processor_factory
    model._processor_factory = replace(stock, processor=pruned_processor(stock.processor))
    return model


@_served
class PrunedLlava(Pruned, llava.LlavaForConditionalGeneration):
    """LLaVA-1.5."""

    captured = frozenset({*CAPTURED, "tiles"})


@_served
class PrunedLlavaNext(Pruned, llava_next.LlavaNextForConditionalGeneration):
    """LLaVA-NeXT."""


@_served
class PrunedLlavaOnevision(Pruned, llava_onevision.LlavaOnevisionForConditionalGeneration):
    """LLaVA-OneVision."""


@_served
class PrunedQwen2_5VL(PrunedMRoPE, qwen2_5_vl.Qwen2_5_VLForConditionalGeneration):  # noqa: N801
    """Qwen2.5-VL."""


@_served
class PrunedQwen3VL(PrunedMRoPE, qwen3_vl.Qwen3VLForConditionalGeneration):
    """Qwen3-VL."""


@_served
class PrunedInternVL(Pruned, interns1.InternS1ForConditionalGeneration):
    """InternVL3 and 3.5, in the layout of transformers."""
