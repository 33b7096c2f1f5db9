"""Attention metadata and row indices of a step, on the device, for the layers of a decoder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from vllm.forward_context import get_forward_context
from vllm.v1.attention.backend import CommonAttentionMetadata

from opsearch.serving.step import Step


@dataclass(frozen=True, eq=False)
class LayerCache:
    """Where a layer's keys and values are.

    Attributes:
        name: Name of the attention layer.
        group: vLLM's AttentionGroup of the layer, which builds metadata for its backend.
        block_table: Blocks of each request in the cache of the layer's group, int32[R, B].
        block_size: Keys per block.
        number: Number of the KV cache group.
    """

    name: str
    group: Any
    block_table: Tensor
    block_size: int
    number: int


class StepAttention:
    """A step on the device.

    Attributes:
        rows: Number of rows of the step.
        positions: Rotary positions, int64[T] or int64[3, T].
    """

    def __init__(self, step: Step, caches: Sequence[LayerCache], device: torch.device) -> None:
        self._step, self._caches, self._device = step, caches, device
        self.rows = len(step.rank)
        positions = step.positions.to(device)
        self.positions = positions[0] if len(positions) == 1 else positions
        self._uploaded: dict[int, Tensor | None] = {}
        self._within: dict[tuple[int, int], Tensor | None] = {}
        self._metadata: dict[tuple[int, int, int], tuple[Any, Tensor]] = {}
        self._tables: dict[int, Tensor] = {}

    def entering(self, layer: int) -> Tensor | None:
        """Return the rows of the step that a layer or a later one processes; None for all."""
        return self._upload(self._step.layers[layer].stream)

    def within(self, layer: int, here: Tensor) -> list[Tensor | None]:
        """Return the rows of q, kv and mlp in a stream that holds the rows `here` of the step."""
        sets = self._step.layers[layer]
        found = []
        for which in (sets.q, sets.kv, sets.mlp):
            key = (sets.stream, which)
            if key not in self._within:
                rows = self._upload(which)
                if rows is not None:
                    rows = None if len(rows) == len(here) else torch.searchsorted(here, rows)
                self._within[key] = rows
            found.append(self._within[key])
        return found

    def enter(self, layer: int) -> None:
        """Put the metadata and slots of a layer into vLLM's forward context."""
        cache, sets = self._caches[layer], self._step.layers[layer]
        context = get_forward_context()
        if not self._step.pruned:
            return
        key = (cache.number, sets.q, sets.kv)
        if key not in self._metadata:
            stock = context.attn_metadata[cache.name]
            self._metadata[key] = self._build(cache, sets.q, sets.kv, stock)
        context.attn_metadata[cache.name], context.slot_mapping[cache.name] = self._metadata[key]

    def _build(self, cache: LayerCache, q: int, kv: int, stock: Any) -> tuple[Any, Tensor]:
        """Return the metadata of queries of set `q` over keys of set `kv`, and the keys' slots."""
        if cache.number not in self._tables:
            self._tables[cache.number] = cache.block_table.cpu()
        table = self._tables[cache.number]
        slots = self._step.slots(kv, table, cache.block_size).to(self._device)
        queries = self._step.rows(q)
        if queries is not None and not len(queries):
            return stock, slots  # only keys are stored
        runs = self._step.runs(q, kv)
        metadata = CommonAttentionMetadata(
            query_start_loc=runs.starts.to(self._device),
            query_start_loc_cpu=runs.starts,
            seq_lens=runs.lengths.to(self._device),
            seq_lens_cpu_upper_bound=runs.lengths,
            num_reqs=len(runs.lengths),
            num_actual_tokens=int(runs.starts[-1]),
            max_query_len=int(runs.starts.diff().max()),
            max_seq_len=int(runs.lengths.max()),
            block_table_tensor=table[runs.request].to(self._device),
            slot_mapping=slots,
            causal=True,
            is_prefilling=runs.starts.diff() > 1,
        )
        return cache.group.build_metadata(metadata), slots

    def _upload(self, which: int) -> Tensor | None:
        if which not in self._uploaded:
            rows = self._step.rows(which)
            self._uploaded[which] = None if rows is None else rows.to(self._device)
        return self._uploaded[which]


def layer_caches(runner: Any, names: Sequence[str]) -> list[LayerCache]:
    """Return where the keys of each attention layer are, in the order of `names`.

    Args:
        runner: vLLM's V1 model runner, with the requests of a step in its batch.
        names: Names of the attention layers of the decoder.
    """
    batch = runner.input_batch
    found: Mapping[str, LayerCache] = {
        name: LayerCache(
            name,
            group,
            batch.block_table[number].get_device_tensor(batch.num_reqs),
            batch.block_table[number].block_size,
            number,
        )
        for number, groups in enumerate(runner.attn_groups)
        for group in groups
        for name in group.layer_names
    }
    return [found[name] for name in names]
