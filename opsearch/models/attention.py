"""Steps of a decoder layer's attention, computed with its weights and its family's functions."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

FLASH = "flash_attention_2"  # takes key masks only, bool[B, S_kv]

CosSin = tuple[Tensor, Tensor]


@dataclass(frozen=True, eq=False)
class Attention:
    """Attention of a decoder layer.

    Attributes:
        module: Its module, with `q_proj`, `k_proj`, `v_proj` and `o_proj`.
        rotates: True if queries and keys are rotated by their positions. Some decoders leave it out
            in the layers that attend to all earlier tokens (Cohere 2).
    """

    module: Any
    rotates: bool = True

    def queries(self, states: Tensor, cos_sin: CosSin) -> Tensor:
        """Return rotated queries [B, H, K, hd] of normed states [B, K, D]; cos, sin: [B, K, hd]."""
        q = self._heads(self.module.q_proj(states), "q_norm")
        # The stock function rotates queries and keys; keys with zero heads cost nothing.
        return self._rotated(q, q[:, :0], cos_sin)[0]

    def keys_values(self, states: Tensor, cos_sin: CosSin) -> tuple[Tensor, Tensor]:
        """Return rotated keys and values [B, H_kv, K, hd] of normed hidden states [B, K, D]."""
        return self.keys(states, cos_sin), self._heads(self.module.v_proj(states))

    def keys(self, states: Tensor, cos_sin: CosSin) -> Tensor:
        """Return rotated keys [B, H_kv, K, hd] of normed hidden states [B, K, D]."""
        k = self._heads(self.module.k_proj(states), "k_norm")
        return self._rotated(k[:, :0], k, cos_sin)[1]

    def attend(
        self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, name: str | None = None
    ) -> Tensor:
        """Apply attention and the output projection, [B, Kq, D]; mask: [B, 1, Kq, Kkv].

        `name` is an attention implementation in place of the module's.
        """
        projected: Tensor = self.module.o_proj(self.attended(q, k, v, mask, name))
        return projected

    def attended(
        self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, name: str | None = None
    ) -> Tensor:
        """Apply the module's attention function and concatenate the heads, [B, Kq, H * hd].

        With a mask, FlashAttention is replaced by SDPA, because it accepts no query-by-key masks.
        """
        name = name or self.implementation
        if name == FLASH and mask is not None:
            name = "sdpa"
        eager = self._modeling.eager_attention_forward
        function = ALL_ATTENTION_FUNCTIONS.get_interface(name, eager)
        dropout = self.module.attention_dropout if self.module.training else 0.0
        more = {} if self.softcap is None else {"softcap": self.softcap}
        output, _ = function(
            self.module, q, k, v, mask, dropout=dropout, scaling=self.scaling, **more
        )
        heads: Tensor = output.flatten(2)
        return heads

    def causal_mask(self, length: int, like: Tensor) -> Tensor | None:
        """Return a causal mask over `length` rows for eager attention, None for others."""
        if self.implementation != "eager":
            return None
        mask = torch.full((length, length), torch.finfo(like.dtype).min, dtype=like.dtype)
        return mask.triu(1)[None, None].to(like.device)

    @property
    def implementation(self) -> str:
        """Name of the module's attention implementation."""
        name: str = self.module.config._attn_implementation
        return name

    @property
    def scaling(self) -> float:
        """Factor of the attention logits."""
        factor: float = self.module.scaling
        return factor

    @property
    def softcap(self) -> float | None:
        """Bound of the attention logits, which only eager attention applies (Gemma 2)."""
        bound: float | None = getattr(self.module, "attn_logit_softcapping", None)
        return bound

    @property
    def _modeling(self) -> Any:
        """Module of transformers that defines this attention and its functions."""
        return sys.modules[type(self.module).__module__]

    def _rotated(self, q: Tensor, k: Tensor, cos_sin: CosSin) -> tuple[Tensor, Tensor]:
        return self._rotary(q, k, *cos_sin) if self.rotates else (q, k)

    @property
    def _rotary(self) -> Callable[..., tuple[Tensor, Tensor]]:
        """The family's function that rotates queries and keys by cos and sin."""
        modeling = self._modeling
        if hasattr(modeling, "apply_multimodal_rotary_pos_emb"):
            # Older releases merge the time, height and width sections in each layer.
            sections = self.module.config.rope_parameters["mrope_section"]
            return partial(modeling.apply_multimodal_rotary_pos_emb, mrope_section=sections)
        rotary: Callable[..., tuple[Tensor, Tensor]] = modeling.apply_rotary_pos_emb
        return rotary

    def _heads(self, projected: Tensor, norm: str | None = None) -> Tensor:
        """Split [B, K, H * hd] into heads [B, H, K, hd] and apply the family's norm, if any."""
        width, head_dim = projected.shape[-1], self.module.head_dim
        heads = projected.view(*projected.shape[:-1], width // head_dim, head_dim)
        if norm is not None and hasattr(self.module, norm):
            heads = getattr(self.module, norm)(heads)
        return heads.transpose(1, 2)
