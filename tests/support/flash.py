"""A stand-in for the package `flash_attn`, so that transformers' own wrapper of it runs on a CPU.

The functions follow the package's documentation, in plain torch and in any precision; what they
refuse, the kernels also refuse or do not document. Wrong rows, lengths or layouts give wrong
answers or errors, as with the package. The kernels themselves are not tested: their rounding in
half precision, their limits on head sizes and devices, and their speed.
"""

import sys
from contextlib import contextmanager
from importlib.machinery import ModuleSpec
from itertools import pairwise
from types import ModuleType

import pytest
import torch
from transformers import PreTrainedModel
from transformers import modeling_flash_attention_utils as wrapper

FLASH = "flash_attention_2"


def flash_attn_func(q, k, v, dropout_p=0.0, softmax_scale=None, causal=False, window_size=(-1, -1)):
    """Apply attention of queries [B, Sq, H, hd] over keys and values [B, Sk, H_kv, hd].

    Causal attention is aligned to the bottom right, so that the last query sees all keys.
    """
    assert (dropout_p, window_size) == (0.0, (-1, -1)), "not for inference of full attention"
    assert q.dtype == k.dtype == v.dtype
    assert k.shape == v.shape
    assert (len(q), q.shape[-1]) == (len(k), k.shape[-1])
    assert 0 not in (*q.shape, *k.shape), "no dimension may be empty"
    assert q.shape[2] % k.shape[2] == 0, "each head of the keys serves equally many queries"
    k, v = (heads.repeat_interleave(q.shape[2] // k.shape[2], 2) for heads in (k, v))
    scale = q.shape[-1] ** -0.5 if softmax_scale is None else softmax_scale
    scores = torch.einsum("bqhd,bkhd->bhqk", q, k).float() * scale
    if causal:
        queries, keys = (torch.arange(x.shape[1], device=x.device) for x in (q, k))
        ahead = keys > queries[:, None] + len(keys) - len(queries)
        scores = scores.masked_fill(ahead, -torch.inf)
    weights = torch.softmax(scores, -1).nan_to_num(0.0)  # rows that see nothing become zero
    return torch.einsum("bhqk,bkhd->bqhd", weights.to(v.dtype), v)


def flash_attn_varlen_func(
    q,
    k,
    v,
    cu_seqlens_q,
    cu_seqlens_k,
    max_seqlen_q,
    max_seqlen_k,
    dropout_p=0.0,
    softmax_scale=None,
    causal=False,
    window_size=(-1, -1),
):
    """Apply attention to packed sequences [total, H, hd] that begin at cu_seqlens."""
    options = dropout_p, softmax_scale, causal, window_size
    parts = []
    for rows, bounds, longest in ((q, cu_seqlens_q, max_seqlen_q), (k, cu_seqlens_k, max_seqlen_k)):
        assert bounds.dtype == torch.int32
        assert (bounds[0], bounds[-1]) == (0, len(rows))
        assert bounds.diff().max() == longest
        parts.append(list(pairwise(bounds.tolist())))
    found = [
        flash_attn_func(q[None, a:b], k[None, c:d], v[None, c:d], *options)[0]
        for (a, b), (c, d) in zip(*parts, strict=True)
    ]
    return torch.cat(found)


@contextmanager
def installed():
    """Install the stand-in, also for models on the CPU in float32."""
    package, padding = ModuleType("flash_attn"), ModuleType("flash_attn.bert_padding")
    package.__spec__ = ModuleSpec("flash_attn", None)
    package.flash_attn_func = flash_attn_func
    package.flash_attn_varlen_func = flash_attn_varlen_func
    package.flash_attn_with_kvcache = None  # of a paged cache
    padding.pad_input, padding.unpad_input = wrapper._pad_input, wrapper._unpad_input
    with pytest.MonkeyPatch.context() as patch, _imported_anew():
        patch.setitem(sys.modules, "flash_attn", package)
        patch.setitem(sys.modules, "flash_attn.bert_padding", padding)
        patch.setattr(wrapper, "is_flash_attn_2_available", lambda: True)
        patch.setitem(
            wrapper.FLASH_ATTENTION_COMPATIBILITY_MATRIX[2],
            "general_availability_check",
            lambda: True,
        )
        # transformers refuses models on the CPU.
        patch.setattr(PreTrainedModel, "_flash_attn_can_dispatch", lambda *_, **__: True)
        yield


@contextmanager
def _imported_anew():
    """Clear the functions that transformers has cached."""
    wrapper._loaded_implementation = None
    try:
        yield
    finally:
        wrapper._loaded_implementation = None
