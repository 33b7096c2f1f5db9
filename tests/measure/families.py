"""Tiny random LLaVAs with each supported decoder, and samples of any layout."""

from fractions import Fraction
from functools import cache

import torch
from transformers import AutoConfig, LlavaForConditionalGeneration

from opsearch.data.item import Item
from opsearch.models.encoding import Sample
from opsearch.policy.policy import Policy
from opsearch.policy.ranker import RankerSpec
from tests.support import tiny

LAYERS = 4
CLS = RankerSpec("cls")
DECODERS = ("llama", "mistral", "qwen2", "qwen3")
_SHARED = (
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "vocab_size",
    "max_position_embeddings",
    "pad_token_id",
)
# Lengths of text around the images: one image, two apart, two adjacent, none before the image.
LAYOUTS = ([3, 4], [2, 3, 4], [2, 0, 5], [0, 5], [0, 2, 3])


@cache
@torch.inference_mode(mode=False)  # whoever asks first: others take gradients
def model(decoder="llama", attention="sdpa", dtype=torch.float32):
    """Return the tiny LLaVA with another decoder, scaled so that the image matters."""
    stock = tiny.llava(LAYERS).config
    text = {name: getattr(stock.text_config, name) for name in _SHARED}
    stock.text_config = AutoConfig.for_model(decoder, sliding_window=None, **text)
    stock._attn_implementation = attention
    torch.manual_seed(1)
    made = LlavaForConditionalGeneration(stock).eval()
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            if "proj" in name and parameter.ndim == 2:
                parameter.mul_(3.0)
        made.lm_head.weight.mul_(8.0)
    made.generation_config.pad_token_id = tiny.PAD
    made.generation_config.eos_token_id = 2
    return made.to(dtype)


def sample(runs, seed=0):
    """Return a prompt of text of these lengths with random images between."""
    inputs = tiny.prompts([runs], seed)
    n_visual = int((inputs["input_ids"] == tiny.IMAGE).sum())
    item = Item(f"{runs}/{seed}", "", (), ())
    return Sample(item, f"{runs}/{seed}", inputs, n_visual, inputs["input_ids"].shape[1] - n_visual)


def of_counts(counts, ranker=CLS):
    """Return a policy with counts in tokens."""
    triples = tuple(tuple(Fraction(int(c)) for c in triple) for triple in counts)
    return Policy(triples, unit="tokens", rankers=((0, ranker),))
