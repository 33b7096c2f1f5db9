"""A KV cache whose layers hold different columns of the same prompt.

To generate() the cache looks like a full one: lengths are logical, so that masks and positions come
out as for the original model. Each layer knows which original columns it really stores.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer

from opsearch.errors import PolicyError
from opsearch.rankers.prompt import Prompt
from opsearch.runtime.masks import FLASH
from opsearch.runtime.plan import Order, Plan
from opsearch.runtime.rows import Rows


class PrunedLayer(DynamicLayer):
    """Keys and values of one layer at the columns of `rows`, then of all generated tokens.

    store: whether to keep them; hidden: prompt columns that are not stored; index: int64[B, K]
    original columns; valid: bool[B, K], None where every slot holds a column; expected: whether a
    layer that knows of the columns is about to add to them.
    """

    store: bool = True
    hidden: int = 0
    index: Tensor | None = None
    valid: Tensor | None = None
    expected: bool = False

    def begin(self, rows: Rows) -> None:
        """Note which columns the prompt's keys and values, stored next, belong to."""
        self.index = rows.index
        self.valid = rows.valid if rows.ragged else None
        self.hidden = rows.length - rows.index.shape[1]
        self.expected = True

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> Any:
        """Append keys and values, the first ones as they are; without `store` hand them through."""
        if not self.store:
            return key_states, value_states
        if self.index is not None and not self.expected:
            raise PolicyError(
                "this cache was made under a policy, and a stock layer would read its columns as "
                "others; go on with it inside of `with policy.apply(model)`"
            )
        self.expected = False
        if not self.is_initialized:
            self.dtype, self.device = key_states.dtype, key_states.device
            self.keys, self.values, self.is_initialized = key_states, value_states, True
            return key_states, value_states
        return super().update(key_states, value_states, *args, **kwargs)

    def get_seq_length(self) -> int:
        """Logical length: pruned columns count as if they were there."""
        physical = int(super().get_seq_length())
        return physical + self.hidden if physical else 0

    def visible(self, mask: Tensor | None, query_length: int, attention: str) -> Tensor | None:
        """A stock mask over logical columns, cut to the columns that this layer stores.

        [B, 1, q, S_kv], or FlashAttention's [B, S_kv]: the queries are its last columns, and see
        all that it shows before them, wherever the holes are.
        """
        if self.index is None:
            return mask
        if mask is None:
            if self.valid is None:
                return None
            generated = self.get_seq_length() - self.hidden - self.valid.shape[1] + query_length
            there = torch.cat([self.valid, self.valid.new_ones(len(self.valid), generated)], 1)
            if attention == FLASH:
                return there
            return there[:, None, None, :].expand(-1, 1, query_length, -1)
        if attention == FLASH:
            return self._stored(self.index, mask[:, None, None])[:, 0, 0]
        return self._stored(self.index, mask)

    def _stored(self, index: Tensor, mask: Tensor) -> Tensor:
        """The stored columns of a mask [B or 1, 1, q, S_kv]; index: those of the prompt."""
        batch, kept = index.shape
        prompt = kept + self.hidden
        tail = torch.arange(prompt, mask.shape[-1], device=mask.device).expand(batch, -1)
        columns = torch.cat([index, tail], 1)[:, None, None, :]
        cut = mask.expand(batch, -1, -1, -1).gather(-1, columns.expand(-1, 1, mask.shape[2], -1))
        if self.valid is None:
            return cut
        valid = torch.cat([self.valid, self.valid.new_ones(tail.shape)], 1)[:, None, None, :]
        if mask.dtype == torch.bool:
            return cut & valid
        return cut.masked_fill(~valid, torch.finfo(mask.dtype).min)

    def crop(self, tokens_to_remove: int) -> None:
        """Take off the last tokens: a negative count, or (transformers < 5.20) a logical length."""
        if tokens_to_remove > 0:
            tokens_to_remove = min(tokens_to_remove - self.get_seq_length(), 0)
        if self.keys is not None and self.values is not None and tokens_to_remove:
            self.keys = self.keys[..., :tokens_to_remove, :]
            self.values = self.values[..., :tokens_to_remove, :]
            self._crop_columns(self.keys.shape[-2])

    def reorder_cache(self, beam_idx: Any) -> None:
        """Follow beam search."""
        super().reorder_cache(beam_idx)
        self._map_columns(lambda t: t.index_select(0, beam_idx.to(t.device)))

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeat every sample."""
        super().batch_repeat_interleave(repeats)
        self._map_columns(lambda t: t.repeat_interleave(repeats, dim=0))

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep some samples."""
        super().batch_select_indices(indices)
        self._map_columns(lambda t: t[indices])

    def reset(self) -> None:
        """Forget everything."""
        super().reset()
        self.keys = self.values = None
        self.is_initialized = False
        self.hidden, self.index, self.valid = 0, None, None

    def _crop_columns(self, stored: int) -> None:
        if self.index is None or stored >= self.index.shape[1]:
            return
        length = self.index.shape[1] + self.hidden
        ends = torch.arange(length - (self.index.shape[1] - stored), length)
        if self.valid is not None or self.index[0, stored:].tolist() != ends.tolist():
            raise PolicyError(
                "a pruned cache cannot be cropped into an image or a padded prompt; prefill the "
                "shorter prompt anew"
            )
        self.index = self.index[:, :stored]

    def _map_columns(self, change: Any) -> None:
        if self.index is not None:
            self.index = change(self.index)
        if self.valid is not None:
            self.valid = change(self.valid)


class PrunedCache(DynamicCache):
    """The cache of one pruned prefill and of the decoding after it.

    plan: what the prefill computes, None after it; prompt: what the plan is made from, until it is;
    order: what a CUDA graph computes in place of a plan, None after it; store: whether keys and
    values are kept (not for use_cache=False). Masks are cut once for all layers of equal columns.
    """

    def __init__(self, num_layers: int, plan: Plan | None = None, store: bool = True) -> None:
        new_layer: Callable[[], PrunedLayer] = PrunedLayer
        self.pruned = [new_layer() for _ in range(num_layers)]
        for layer in self.pruned:
            layer.store = store
        Cache.__init__(self, layers=list(self.pruned))
        self.plan = plan
        self.prompt: Prompt | None = None
        self.order: Order | None = None
        self._mask: Tensor | None = None
        self._cuts: dict[int, tuple[Tensor, Tensor | None]] = {}

    @classmethod
    def take_over(cls, cache: Any, num_layers: int, store: bool) -> PrunedCache:
        """The caller's own empty cache turned into a pruned one, a new one where there is none."""
        if cache is None:
            return cls(num_layers, store=store)
        cache.__class__ = cls
        cls.__init__(cache, num_layers, store=store)
        taken: PrunedCache = cache
        return taken

    def prefilling(self, layer: int) -> bool:
        """Whether the prompt has not gone through `layer` yet."""
        return self.pruned[layer].index is None

    def visible(
        self, layer: int, mask: Tensor | None, query_length: int, attention: str
    ) -> Tensor | None:
        """What a layer is to see of a stock mask, see PrunedLayer."""
        stored = self.pruned[layer]
        stored.expected = True
        if mask is None or stored.index is None:
            return stored.visible(mask, query_length, attention)
        if mask is not self._mask:
            self._mask, self._cuts = mask, {}
        key = id(stored.index)
        if key not in self._cuts:
            self._cuts[key] = stored.index, stored.visible(mask, query_length, attention)
        return self._cuts[key][1]

    def check_followed(self) -> None:
        """Raise PolicyError where a prefill is over and its plan was not followed."""
        if self.plan is not None or self.order is not None:
            raise PolicyError(
                "the decoder's layers were given no cache and followed no policy, as older "
                "transformers do under gradient checkpointing; call "
                "model.gradient_checkpointing_disable()"
            )

    def kv_bytes(self) -> int:
        """Bytes of the keys and values that are stored now."""
        tensors = [t for layer in self.pruned for t in (layer.keys, layer.values) if t is not None]
        return sum(int(t.numel()) * t.element_size() for t in tensors)
