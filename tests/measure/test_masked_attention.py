"""Causal attention without a mask equals masked attention, in any order and with other rows."""

import numpy as np
import pytest
import torch

from opsearch.measure.planning.trie import is_square
from opsearch.measure.sweep.attention import CausalAttention, KeyRows, MaskedAttention
from opsearch.models.attention import Attention
from tests.measure import families

ASKING, NODES, BATCH, ORDERS = 16, 3, 2, 2


@pytest.mark.usefixtures("no_grad", "flash_attn")
@pytest.mark.parametrize("attention", ["sdpa", "eager", "flash_attention_2"])
@pytest.mark.parametrize("others", [0, 1, 2])
def test_a_square_is_a_stack(others, attention, monkeypatch):
    """Nodes of two orders on two images; each reads `others` rows that have no query."""
    attn = families.model("llama").model.language_model.layers[0].self_attn
    monkeypatch.setattr(attn.config, "_attn_implementation", attention)
    generator = torch.Generator().manual_seed(others)
    heads, groups, width = 4, attn.config.num_key_value_heads, attn.head_dim
    queries = torch.randn(BATCH, NODES * ASKING, heads, width, generator=generator)
    each = others + NODES * ASKING  # rows of keys of one image
    pairs = tuple(
        torch.randn(BATCH * each, groups, width, generator=generator) for _ in ("keys", "values")
    )
    asking = np.arange(NODES * ASKING).reshape(NODES, ASKING)
    reading = np.concatenate([np.tile(np.arange(others), (NODES, 1)), others + asking], 1)
    shift = (torch.arange(BATCH)[:, None] * each).expand(BATCH, others + ASKING)
    # Some text comes before the visual tokens, some between them.
    ranked = [
        torch.stack([1 + torch.randperm(40, generator=generator)[:ASKING] for _ in range(ORDERS)])
        for _ in range(BATCH)
    ]
    visual = torch.stack(ranked) * 2
    text = torch.tensor([0, 31])[:others].expand(BATCH, ORDERS, -1)
    at, order = torch.cat([text, visual], 2), np.array([0, 1, 0])
    keys = KeyRows(reading, shift, at)
    masked, causal = (
        MaskedAttention(asking, visual, keys, order),
        CausalAttention(asking, keys, order),
    )
    wanted = torch.cat(list(masked.attend(Attention(attn), queries, pairs)), 1)
    found = torch.cat(list(causal.attend(Attention(attn), queries, pairs)), 1)
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-5)
    assert found.std() > 0.01


def test_only_few_strangers_ask():
    assert is_square(np.array([16, 16, 15]), np.array([16, 15, 15]), 2).tolist() == [
        True,
        False,
        False,
    ]
