"""A KV cache whose layers store different columns of the same prompt.

The cache reports logical lengths, which include pruned columns, so generate() builds the masks and
positions of the original model. Each layer knows which of the original columns it stores.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer

from opsearch.errors import PolicyError
from opsearch.models.attention import FLASH
from opsearch.models.pruned.plan import Plan, PlanInputs
from opsearch.models.pruned.rows import Rows
from opsearch.rankers.base import Prompt

if TYPE_CHECKING:
    from opsearch.models.pruned.execution import Executions


class PrunedLayer(DynamicLayer):
    """Keys and values of one layer: the kept prompt columns, then all generated tokens.

    Attributes:
        store: True if keys and values are kept.
        n_pruned: Number of prompt columns that are not stored.
        index: Original positions of the prompt columns, int64[B, K]; None before the prefill.
        valid: Mask of the slots that hold a column, bool[B, K]; None if all do.
        update_expected: True if the next update comes from a layer that follows the policy.
        checked: True if only such layers may update; False once the layer was emptied.
    """

    store: bool = True
    n_pruned: int = 0
    index: Tensor | None = None
    valid: Tensor | None = None
    update_expected: bool = False
    checked: bool = True

    def begin(self, rows: Rows) -> None:
        """Set the original columns of the prompt's keys and values, which are stored next."""
        self.checked = True
        self.index = rows.index
        self.valid = rows.valid if rows.ragged else None
        self.n_pruned = rows.length - rows.index.shape[1]
        self.update_expected = True

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> Any:
        """Append keys and values and return all; without `store`, return only the new ones."""
        if self.checked and not self.update_expected:
            raise PolicyError(
                "this cache was made under a policy; a stock layer would assign its columns to "
                "wrong positions; use it inside `with policy.apply(model)`, or while the policy is "
                "installed"
            )
        self.update_expected = False
        if not self.store:
            return key_states, value_states
        if not self.is_initialized:
            self.dtype, self.device = key_states.dtype, key_states.device
            self.keys, self.values, self.is_initialized = key_states, value_states, True
            return key_states, value_states
        return super().update(key_states, value_states, *args, **kwargs)

    def get_seq_length(self) -> int:
        """Return the logical length, which includes pruned columns."""
        physical = int(super().get_seq_length())
        return physical + self.n_pruned if physical else 0

    def visible(self, mask: Tensor | None, query_length: int, attention: str) -> Tensor | None:
        """Restrict a stock mask over logical columns to the columns that this layer stores.

        Args:
            mask: Mask [B, 1, q, S_kv]; [B, S_kv] for FlashAttention, whose queries are the last
                columns and attend to all earlier unmasked ones.
            query_length: Number of queries q.
            attention: Name of the attention implementation.
        """
        if self.index is None:
            return mask
        if mask is None:
            if self.valid is None:
                return None
            generated = self.get_seq_length() - self.n_pruned - self.valid.shape[1] + query_length
            valid = torch.cat([self.valid, self.valid.new_ones(len(self.valid), generated)], 1)
            if attention == FLASH:
                return valid
            return valid[:, None, None, :].expand(-1, 1, query_length, -1)
        if attention == FLASH:
            return self._stored(self.index, mask[:, None, None])[:, 0, 0]
        return self._stored(self.index, mask)

    def _stored(self, index: Tensor, mask: Tensor) -> Tensor:
        """Return the stored columns of a mask [B or 1, 1, q, S_kv].

        Args:
            index: Stored columns of the prompt, int64[B, K].
            mask: Mask over logical columns.
        """
        batch, kept = index.shape
        prompt = kept + self.n_pruned
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
        """Remove the last tokens.

        Args:
            tokens_to_remove: Negative number of tokens, or the logical length to keep, which
                transformers before 5.20 passes.
        """
        if tokens_to_remove > 0:
            tokens_to_remove = min(tokens_to_remove - self.get_seq_length(), 0)
        if self.keys is not None and self.values is not None and tokens_to_remove:
            self.keys = self.keys[..., :tokens_to_remove, :]
            self.values = self.values[..., :tokens_to_remove, :]
            self._crop_columns(self.keys.shape[-2])

    def reorder_cache(self, beam_idx: Any) -> None:
        """Reorder the samples as beam search does."""
        super().reorder_cache(beam_idx)
        self._map_columns(lambda t: t.index_select(0, beam_idx.to(t.device)))

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeat every sample."""
        super().batch_repeat_interleave(repeats)
        self._map_columns(lambda t: t.repeat_interleave(repeats, dim=0))

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep the samples at `indices`."""
        super().batch_select_indices(indices)
        self._map_columns(lambda t: t[indices])

    def reset(self) -> None:
        """Empty the layer."""
        super().reset()
        self.keys = self.values = None
        self.is_initialized = False
        self.n_pruned, self.index, self.valid, self.checked = 0, None, None, False

    def _crop_columns(self, stored: int) -> None:
        if self.index is None or stored >= self.index.shape[1]:
            return
        length = self.index.shape[1] + self.n_pruned
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
    """Cache of one pruned prefill and of the decoding after it.

    Masks are restricted once for all layers that store the same columns.

    Attributes:
        pruned: Layers of the cache.
        plan: Plan of the prefill; None before and after it.
        prompt: Prompt of the prefill until it is ranked, then None.
        executions: Operations of the prefill until it is ranked, then None.
        plan_inputs: Inputs of a CUDA graph that replaces the plan; None before and after it.
    """

    def __init__(self, num_layers: int, plan: Plan | None = None, store: bool = True) -> None:
        new_layer: Callable[[], PrunedLayer] = PrunedLayer
        self.pruned = [new_layer() for _ in range(num_layers)]
        for layer in self.pruned:
            layer.store = store
        Cache.__init__(self, layers=list(self.pruned))
        self.plan = plan
        self.prompt: Prompt | None = None
        self.executions: Executions | None = None
        self.plan_inputs: PlanInputs | None = None
        self._mask: Tensor | None = None
        self._restricted: dict[int, tuple[Tensor, Tensor | None]] = {}

    @classmethod
    def convert(cls, cache: Any, num_layers: int, store: bool) -> PrunedCache:
        """Convert the caller's empty cache to a PrunedCache in place; return a new one for None.

        Args:
            cache: Empty DynamicCache or PrunedCache, or None.
            num_layers: Layers of the decoder.
            store: True if keys and values are kept (False under use_cache=False).
        """
        if cache is None:
            return cls(num_layers, store=store)
        cache.__class__ = cls
        cls.__init__(cache, num_layers, store=store)
        converted: PrunedCache = cache
        return converted

    def prefilling(self, layer: int) -> bool:
        """Return whether `layer` has not processed the prompt yet."""
        return self.pruned[layer].index is None

    def visible(
        self, layer: int, mask: Tensor | None, query_length: int, attention: str
    ) -> Tensor | None:
        """Restrict a stock mask to the columns that `layer` stores, see PrunedLayer.visible."""
        stored = self.pruned[layer]
        stored.update_expected = True
        if mask is None or stored.index is None:
            return stored.visible(mask, query_length, attention)
        if mask is not self._mask:
            self._mask, self._restricted = mask, {}
        key = id(stored.index)
        if key not in self._restricted:
            self._restricted[key] = stored.index, stored.visible(mask, query_length, attention)
        return self._restricted[key][1]

    def check_consumed(self) -> None:
        """Raise PolicyError if a prefill has ended and no layer used its plan."""
        if self.plan is not None or self.plan_inputs is not None:
            raise PolicyError(
                "the decoder's layers were given no cache and followed no policy, as older "
                "transformers do under gradient checkpointing; call "
                "model.gradient_checkpointing_disable()"
            )

    def kv_bytes(self) -> int:
        """Return the bytes of all stored keys and values."""
        tensors = [t for layer in self.pruned for t in (layer.keys, layer.values) if t is not None]
        return sum(int(t.numel()) * t.element_size() for t in tensors)
