"""Planning of engine steps against plain causal attention over the kept keys."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from opsearch.policy.counts import KV, MLP, Q
from opsearch.serving.prompt_rows import PromptRows, PromptShape
from opsearch.serving.step import Scheduled, Step

LAYERS, BLOCK = 3, 4


@dataclass
class Request:
    """A request in a paged cache: which row's key lies in which slot of each layer."""

    prompt: PromptRows
    chunks: list[int]
    blocks: list[int]
    computed: int = 0
    slots: list[dict[int, int]] = field(default_factory=lambda: [{} for _ in range(LAYERS)])

    def rank(self, row: int) -> int:
        return int(self.prompt.rank[row]) if row < len(self.prompt) else -1


@st.composite
def requests(draw, number):
    """A prompt with random text and visual rows, ranks, counts and cuts."""
    kinds = [False, *draw(st.lists(st.booleans(), min_size=1, max_size=14)), False]
    visual = torch.tensor(kinds)
    n = int(visual.sum())
    rank = torch.tensor(draw(st.permutations(range(n))), dtype=torch.long)
    counts = torch.tensor(
        draw(st.lists(st.integers(0, n), min_size=3 * LAYERS, max_size=3 * LAYERS))
    ).view(LAYERS, 3)
    shape = PromptShape(visual, n)
    positions = torch.arange(len(kinds))[None]
    prompt = PromptRows.of(shape, counts, rank, positions, len(kinds))
    total = len(kinds) + draw(st.integers(0, 3))  # generated rows
    cuts = draw(st.lists(st.integers(1, 6), min_size=total, max_size=total))
    blocks = torch.randperm(8, generator=torch.Generator().manual_seed(number)) + 8 * number
    return Request(prompt, _limited(cuts, total), blocks.tolist())


def _limited(cuts, total):
    chunks = []
    while total:
        chunks.append(min(cuts.pop(0), total))
        total -= chunks[-1]
    return chunks


@settings(max_examples=200, deadline=None)
@given(st.data(), st.integers(1, 3))
def test_each_query_sees_the_kept_keys_up_to_itself(data, number):
    batch = [data.draw(requests(i)) for i in range(number)]
    while alive := [each for each in batch if each.chunks]:
        parts = [Scheduled(each.prompt, each.computed, each.chunks[0]) for each in alive]
        step = Step(parts)
        rows = [(each, each.computed + i) for each in alive for i in range(each.chunks[0])]
        table = torch.tensor([each.blocks for each in alive])
        for layer in range(LAYERS):
            _check_layer(step, layer, rows, alive, table)
        for each in alive:
            each.computed += each.chunks.pop(0)


def _check_layer(step, layer, rows, alive, table):
    sets = step.layers[layer]
    for module, which in ((Q, sets.q), (KV, sets.kv), (MLP, sets.mlp)):
        expected = [
            i
            for i, (request, row) in enumerate(rows)
            if request.rank(row) < request.prompt.counts[layer, module]
        ]
        assert _all(step.rows(which), len(rows)) == expected
    stored = _all(step.rows(sets.kv), len(rows))
    for index, slot in zip(stored, step.slots(sets.kv, table, BLOCK).tolist(), strict=True):
        request, row = rows[index]
        assert slot not in request.slots[layer], "a key is overwritten"
        request.slots[layer][slot] = row
    queries = _all(step.rows(sets.q), len(rows))
    if not queries:
        return
    starts, lengths, whose = (part.tolist() for part in step.runs(sets.q, sets.kv))
    assert starts[0] == 0
    assert starts[-1] == len(queries)
    for begin, end, length, number in zip(starts, starts[1:], lengths, whose, strict=False):
        for place in range(begin, end):
            request, row = rows[queries[place]]
            assert request is alive[number]
            seen = length - (end - 1 - place)  # what the causal kernel shows this query
            slots = [request.blocks[i // BLOCK] * BLOCK + i % BLOCK for i in range(seen)]
            limit = request.prompt.counts[layer, KV]
            expected = [past for past in range(row + 1) if request.rank(past) < limit]
            assert [request.slots[layer][slot] for slot in slots] == expected


def _all(rows, total):
    return list(range(total)) if rows is None else rows.tolist()


@given(st.integers(0, 2**32 - 1))
def test_stream_holds_what_later_layers_process(seed):
    generator = torch.Generator().manual_seed(seed)
    n = 6
    counts = torch.randint(0, n + 1, (LAYERS, 3), generator=generator)
    visual = torch.tensor([False, *[True] * n, False])
    prompt = PromptRows.of(
        PromptShape(visual, n),
        counts,
        torch.randperm(n, generator=generator),
        torch.arange(n + 2)[None],
        n + 2,
    )
    step = Step([Scheduled(prompt, 0, n + 2)])
    for layer, sets in enumerate(step.layers):
        limit = counts[layer:].max()
        assert _all(step.rows(sets.stream), n + 2) == (prompt.rank < limit).nonzero()[:, 0].tolist()


@pytest.mark.parametrize("rank", [[4, 0, 1, 3, 2], [0, 1, 2, 3, 4], [2, 4, 3, 1, 0]])
def test_dropped_tokens_leave_their_positions(rank):
    """Two of five visual tokens are held: those of rank 0 and 1, at their own positions."""
    visual = torch.tensor([False, False, True, True, False])
    positions = torch.arange(8).expand(3, -1) * torch.tensor([[1], [10], [100]])
    prompt = PromptRows.of(
        PromptShape(visual, 5), torch.full((1, 3), 2), torch.tensor(rank), positions, 40
    )
    places = sorted([rank.index(0), rank.index(1)])
    assert prompt.place.tolist() == [-1, -1, *places, -1]
    assert prompt.positions[0].tolist() == [0, 1, *[2 + place for place in places], 7]
    assert prompt.positions[2].tolist() == [0, 100, *[200 + 100 * p for p in places], 700]
    step = Step([Scheduled(prompt, 4, 3)])
    assert step.positions[0].tolist() == [7, 40, 41]


def test_a_prompt_whose_keys_are_cached_needs_no_ranking():
    visual = torch.tensor([False, True, True, False])
    counts = torch.tensor([[2, 2, 2], [0, 2, 0]])
    prompt = PromptRows.of(PromptShape(visual, 5), counts, None, torch.arange(7)[None], 7)
    step = Step([Scheduled(prompt, 3, 2)])
    assert step.positions.tolist() == [[6, 7]]
    assert step.seen(step.layers[1].kv).tolist() == [4, 5]
