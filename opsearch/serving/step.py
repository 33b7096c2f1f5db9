"""Rows of one engine step that each layer computes, and the slots of their keys and values.

A step holds T rows of several requests: chunks of prompts and generated tokens. A layer that keeps
only some keys of a request stores them compacted: key number i of the kept ones lies in slot i of
the request's own blocks. A query sees all kept keys up to its position, so queries whose numbers of
visible keys rise by one form a virtual request of the causal paged kernel. Rows before, inside and
after an image fall apart into such runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from opsearch.policy.counts import KV, MLP, Q
from opsearch.serving.prompt_rows import PromptRows


@dataclass(frozen=True, eq=False)
class Scheduled:
    """Part of a request in a step.

    Attributes:
        prompt: Rows of its prompt.
        computed: Number of rows computed in earlier steps.
        rows: Number of rows in this step.
    """

    prompt: PromptRows
    computed: int
    rows: int

    def of_prompt(self, per_row: Tensor) -> Tensor:
        """Return the step's part of values [..., P] of the prompt's rows."""
        return per_row[..., self.computed : self.computed + self.rows]

    @property
    def generated(self) -> range:
        """Numbers of the generated rows of this step, counted from the end of the prompt."""
        end = self.computed + self.rows - len(self.prompt)
        return range(min(max(self.computed - len(self.prompt), 0), max(end, 0)), max(end, 0))


class Runs(NamedTuple):
    """Virtual requests of a causal attention kernel.

    Attributes:
        starts: First query of each among the queries, and the end, int32[n + 1].
        lengths: Keys that its last query sees, int32[n].
        request: Request of each, int64[n].
    """

    starts: Tensor
    lengths: Tensor
    request: Tensor


class LayerSets(NamedTuple):
    """Row sets of a layer, as indices into `Step.limits`.

    Attributes:
        q: Rows whose queries are computed.
        kv: Rows whose keys and values are computed.
        mlp: Rows of the MLP.
        stream: Rows that this layer or a later one processes.
    """

    q: int
    kv: int
    mlp: int
    stream: int


class Step:
    """Row sets of one engine step.

    Attributes:
        requests: Requests of the step, in the order of their rows.
        request: Request of each row, int64[T].
        rank: Rank of each row, -1 for text, int64[T].
        positions: Rotary positions, int64[1 or 3, T].
        limits: Distinct row sets: each holds text and, of each request, the visual rows of rank
            below its limit, int64[U, R].
        layers: Sets of each layer.
    """

    def __init__(self, requests: Sequence[Scheduled]) -> None:
        self.requests = requests
        sizes = torch.tensor([each.rows for each in requests])
        self.request = torch.repeat_interleave(torch.arange(len(requests)), sizes)
        self.rank = torch.cat([_ranks(each) for each in requests])
        self.positions = torch.cat([_positions(each) for each in requests], -1)
        counts = torch.stack([each.prompt.counts for each in requests], -1)  # [L, 3, R]
        stream = counts.amax(1).flip(0).cummax(0).values.flip(0)  # [L, R]
        stacked = torch.cat([counts, stream[:, None]], 1)
        self.limits, which = stacked.flatten(0, 1).unique(dim=0, return_inverse=True)
        rows = which.view(-1, 4).tolist()
        self.layers = [LayerSets(row[Q], row[KV], row[MLP], row[3]) for row in rows]
        self._rows: dict[int, Tensor | None] = {}
        self._seen: dict[int, Tensor] = {}

    @cached_property
    def pruned(self) -> bool:
        """Whether any layer leaves out any row of these prompts."""
        held = torch.tensor([each.prompt.held for each in self.requests])
        return bool((self.limits < held).any())

    def rows(self, which: int) -> Tensor | None:
        """Return the rows of a set, int64[n]; None stands for all of them."""
        if which not in self._rows:
            keep = self.rank < self.limits[which][self.request]
            self._rows[which] = None if keep.all() else keep.nonzero()[:, 0]
        return self._rows[which]

    def seen(self, which: int) -> Tensor:
        """Return how many keys each row sees where a layer keeps those of a set, int64[T]."""
        if which not in self._seen:
            limits = self.limits[which].tolist()
            pairs = zip(self.requests, limits, strict=True)
            self._seen[which] = torch.cat([_seen(each, limit) for each, limit in pairs])
        return self._seen[which]

    def slots(self, kv: int, block_table: Tensor, block_size: int) -> Tensor:
        """Return the slots of the keys that this step adds.

        Args:
            kv: Set of the rows whose keys are kept.
            block_table: Blocks of each request, int[R, B], on the CPU.
            block_size: Keys per block.

        Returns:
            int64[rows of the set].
        """
        index, request = self._of(kv, self.seen(kv) - 1)
        blocks = block_table[request, index // block_size].long()
        return blocks * block_size + index % block_size

    def runs(self, q: int, kv: int) -> Runs:
        """Return the virtual requests of the queries of set `q` over the keys of set `kv`."""
        seen, request = self._of(q, self.seen(kv))
        new = torch.ones_like(seen, dtype=torch.bool)
        new[1:] = (request[1:] != request[:-1]) | (seen[1:] != seen[:-1] + 1)
        begin = new.nonzero()[:, 0]
        ends = torch.cat([begin[1:], torch.tensor([len(seen)])])
        starts = torch.cat([begin, ends[-1:]])
        return Runs(starts.int(), seen[ends - 1].int(), request[begin])

    def _of(self, which: int, values: Tensor) -> tuple[Tensor, Tensor]:
        """Return values and requests of the rows of a set."""
        rows = self.rows(which)
        return (values, self.request) if rows is None else (values[rows], self.request[rows])


def _ranks(part: Scheduled) -> Tensor:
    """Return the ranks of a request's rows, -1 for text, int64[rows]."""
    ranks = part.of_prompt(part.prompt.rank)
    return torch.cat([ranks, torch.full((len(part.generated),), -1)])


def _positions(part: Scheduled) -> Tensor:
    """Return the rotary positions of a request's rows, int64[1 or 3, rows]."""
    positions = part.of_prompt(part.prompt.positions)
    generated = torch.tensor(part.generated, dtype=torch.long) + part.prompt.next_position
    return torch.cat([positions, generated.expand(len(positions), -1)], -1)


def _seen(part: Scheduled, limit: int) -> Tensor:
    """Return the numbers of kept keys up to each row of a request, int64[rows]."""
    kept = part.prompt.kept(limit)
    generated = torch.tensor(part.generated, dtype=torch.long) + kept[-1] + 1
    return torch.cat([part.of_prompt(kept), generated])
