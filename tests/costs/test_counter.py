"""The exact convention against torch's FlopCounterMode on unpruned decoders."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    LlavaConfig,
    PreTrainedModel,
    Qwen2_5_VLConfig,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from opsearch.costs.flops import Flops, executed
from opsearch.costs.kv import KVBytes
from opsearch.costs.shape import Shape
from tests.support.flop_counter import CPU_KERNEL

SIZES: dict[str, Any] = {
    "num_hidden_layers": 3,
    "hidden_size": 24,
    "intermediate_size": 44,
    "num_attention_heads": 4,
    "vocab_size": 50,
}
CONFIGS = {
    "llama": LlamaConfig(**SIZES),
    "qwen2": Qwen2Config(**SIZES, num_key_value_heads=2),
    "wide-heads": LlamaConfig(**SIZES, num_key_value_heads=1, head_dim=10),
}
MODELS = {"llama": LlamaForCausalLM, "qwen2": Qwen2ForCausalLM, "wide-heads": LlamaForCausalLM}


def make(name: str, attention: str) -> PreTrainedModel:
    torch.manual_seed(0)
    model: PreTrainedModel = MODELS[name]._from_config(
        CONFIGS[name], attn_implementation=attention, dtype=torch.float32
    )
    return model.eval()


def count(model: PreTrainedModel, lengths: Sequence[int]) -> tuple[int, Any]:
    """Return FLOPs and output of one prefill of left-padded prompts of these lengths."""
    positions = torch.arange(max(lengths))
    mask = (positions >= max(lengths) - torch.tensor(lengths)[:, None]).long()
    counter = FlopCounterMode(custom_mapping=CPU_KERNEL, display=False)
    with torch.no_grad(), counter:
        output = model(torch.ones_like(mask), attention_mask=mask, logits_to_keep=1)
    return counter.get_total_flops(), output


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("name", sorted(CONFIGS))
def test_one_prompt(name: str, attention: str) -> None:
    shape = Shape.from_config(CONFIGS[name])
    counted, output = count(make(name, attention), [17])
    assert counted == Flops(shape).stock(n_visual=12, n_other=5)
    stored = [layer.keys.nbytes + layer.values.nbytes for layer in output.past_key_values.layers]
    assert sum(stored) == KVBytes(Shape.from_config(make(name, attention).config)).stock(12, 5)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("name", sorted(CONFIGS))
def test_padded_batch(name: str, attention: str) -> None:
    shape = Shape.from_config(CONFIGS[name])
    n_visual, n_other = [12, 4, 7], [5, 6, 2]
    counted, _ = count(make(name, attention), [17, 10, 9])
    counts = np.array([np.full((3, 3), n) for n in n_visual])
    assert counted == executed(counts, n_visual, n_other, shape)


def test_shape_of_a_multimodal_config() -> None:
    sizes = SIZES | {"num_hidden_layers": 5}
    config = LlavaConfig(text_config=LlamaConfig(**sizes, dtype="bfloat16"))
    assert Shape.from_config(config) == Shape(5, 24, 44, 4, 4, 6, 50, 2)


def test_shape_with_grouped_queries_and_the_dtype_of_the_whole() -> None:
    config = Qwen2_5_VLConfig(text_config={**SIZES, "num_key_value_heads": 2}, dtype=torch.float32)
    assert Shape.from_config(config) == Shape(3, 24, 44, 4, 2, 6, 50, 4)


class BareConfig:
    """The minimum that a config must have."""

    num_hidden_layers, hidden_size, intermediate_size = 2, 12, 20
    num_attention_heads, vocab_size, dtype = 3, 9, "float16"

    def get_text_config(self) -> "BareConfig":
        return self


def test_shape_defaults() -> None:
    assert Shape.from_config(BareConfig()) == Shape(2, 12, 20, 3, 3, 4, 9, 2)
    config = BareConfig()
    config.dtype = None  # type: ignore[assignment]
    assert Shape.from_config(config).kv_bytes_per_element == 2
