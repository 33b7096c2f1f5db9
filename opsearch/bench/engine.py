"""Suite `engine`: every policy's true divergence in one pass against one policy after the other.

The model is a random LLaVA of 32 narrow layers with one sample. One by one means `Policy.apply` and
a forward for each policy, of which a share is timed where all would take too long.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from opsearch.costs.flops import Flops
from opsearch.costs.shape import Shape
from opsearch.measure.engine import Engine
from opsearch.measure.samples import Sample
from opsearch.measure.store import Store
from opsearch.policy import Policy, RankerSpec
from opsearch.spaces import DepthSpace, depth_space, dop_space
from opsearch.tasks.item import Item

_HEAD, _TAIL, _IMAGE, _VOCAB = 35, 30, 5, 97
_PATCH = 4  # pixels on a side


def engine() -> Iterator[dict[str, Any]]:
    """Seconds of the whole grid at one n_v, together and one by one."""
    yield compared(dop_space, side=24, every=8)
    yield compared(dop_space, side=48, every=16)
    yield compared(depth_space, side=24, every=160)


def compared(
    make: Callable[..., DepthSpace], side: int, every: int, layers: int = 32
) -> dict[str, Any]:
    """One row: a space at n_v = 1 for side x side visual tokens, each `every`-th alone."""
    model, sample = random_llava(layers, side), random_sample(side)
    space = make(layers, [Fraction(1)], RankerSpec("cls"))
    policies = [space.decode(point) for point in space.points.tolist()]
    with tempfile.TemporaryDirectory() as folder, Store(Path(folder) / "m.db", {}) as store:
        measuring = Engine(model, store)
        plan = measuring.plan(policies, [sample])
        start = time.perf_counter()
        together = measuring.measure(policies, [sample])[::every, 0]
        seconds = time.perf_counter() - start
    start = time.perf_counter()
    alone = _alone(model, sample, policies[::every])
    one_by_one = (time.perf_counter() - start) * len(policies) / len(alone)
    return {
        "space": space.name,
        "visual_tokens": sample.n_visual,
        "policies": len(policies),
        "forwards": round(plan.forwards, 1),
        "one_by_one_forwards": round(_forwards(space, plan.shape, sample)),
        "together_s": round(seconds, 5),
        "one_by_one_s": round(one_by_one, 5),
        "timed_alone": len(alone),
        "ratio": round(one_by_one / seconds, 1),
        "max_difference_nats": float(np.abs(together - alone).max()),
    }


def _forwards(space: DepthSpace, shape: Shape, sample: Sample) -> float:
    """What all policies cost one by one, in forwards of the original."""
    cost = Flops(shape)
    counts = space.resolved(space.points, sample.n_visual)
    return float(cost.of(counts, *sample.shape).sum() / cost.stock(*sample.shape))


@torch.inference_mode()
def _alone(model: Any, sample: Sample, policies: Sequence[Policy]) -> NDArray[np.float64]:
    """KL in nats of each policy from a forward of its own."""
    p = torch.log_softmax(model(**sample.inputs, logits_to_keep=1).logits[0, -1], -1)
    found = []
    for policy in policies:
        with policy.apply(model):
            q = torch.log_softmax(model(**sample.inputs, logits_to_keep=1).logits[0, -1], -1)
        found.append(float((p.exp() * (p - q)).sum()))
    return np.array(found)


def random_llava(layers: int, side: int) -> Any:
    """A narrow LLaVA of random weights with side x side visual tokens per image."""
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


def random_sample(side: int, seed: int = 0) -> Sample:
    """A random image with 35 tokens before it and 30 behind."""
    generator = torch.Generator().manual_seed(seed)
    text = torch.randint(_IMAGE + 1, _VOCAB, (1, _HEAD + _TAIL), generator=generator)
    ids = torch.cat([text[:, :_HEAD], torch.full((1, side**2), _IMAGE), text[:, _HEAD:]], 1)
    size = _PATCH * side
    inputs = {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "pixel_values": torch.randn(1, 3, size, size, generator=generator),
    }
    name = f"random/{seed}"
    return Sample(Item(name, "", (), ()), name, inputs, side**2, _HEAD + _TAIL)
