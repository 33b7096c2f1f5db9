"""A narrow LLaVA of random weights for suites that time passes, and its samples."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from opsearch.data.item import Item
from opsearch.models.encoding import Sample
from opsearch.policy.policy import Policy

_HEAD, _TAIL, _IMAGE, _VOCAB = 35, 30, 5, 97
_PATCH = 4  # pixels on a side


def random_llava(layers: int, side: int) -> Any:
    """Return a narrow LLaVA of random weights with side x side visual tokens per image."""
    from transformers import (
        CLIPVisionConfig,
        LlamaConfig,
        LlavaConfig,
        LlavaForConditionalGeneration,
    )

    narrow: dict[str, Any] = {"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2}
    vision = CLIPVisionConfig(
        **narrow, num_hidden_layers=2, image_size=_PATCH * side, patch_size=_PATCH
    )
    wide: dict[str, Any] = {"hidden_size": 64, "intermediate_size": 172, "num_attention_heads": 4}
    text = LlamaConfig(**wide, num_hidden_layers=layers, vocab_size=_VOCAB, pad_token_id=0)
    torch.manual_seed(0)
    config = LlavaConfig(
        vision_config=vision, text_config=text, image_token_index=_IMAGE, image_seq_length=side**2
    )
    return LlavaForConditionalGeneration(config).eval()


def random_sample(side: int, question: int = 0, image: int = 0) -> Sample:
    """Return a random image with 35 tokens before it and 30 after it, those of the question."""
    head, tail, pixels = (torch.Generator().manual_seed(n) for n in (0, question, image))
    before, after = (
        torch.randint(_IMAGE + 1, _VOCAB, (1, length), generator=generator)
        for length, generator in ((_HEAD, head), (_TAIL, tail))
    )
    ids = torch.cat([before, torch.full((1, side**2), _IMAGE), after], 1)
    size = _PATCH * side
    inputs = {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "pixel_values": torch.randn(1, 3, size, size, generator=pixels),
    }
    name = f"question {question} on image {image}"
    return Sample(Item(name, "", (), ()), name, inputs, side**2, _HEAD + _TAIL)


@torch.inference_mode()
def one_by_one(
    model: Any, sample: Sample, policies: Sequence[Policy]
) -> tuple[NDArray[np.float64], float]:
    """Return the KL in nats of each policy from its own forward, and their mean seconds."""
    start = time.process_time()
    p = torch.log_softmax(model(**sample.inputs, logits_to_keep=1).logits[0, -1], -1)
    found = []
    for policy in policies:
        with policy.apply(model):
            q = torch.log_softmax(model(**sample.inputs, logits_to_keep=1).logits[0, -1], -1)
        found.append(float((p.exp() * (p - q)).sum()))
    return np.array(found), (time.process_time() - start) / len(policies)
