"""Check of a served policy against plain masked attention, before a server takes requests.

Two prompts of random hidden states run through the decoder in random chunks, as requests would, in
blocks of the cache that no request has yet; further pairs, of random lengths, if the server is told
to. The reference runs the same weights over each whole prompt with a mask. It is what tells a wrong
kernel, block table or metadata of a backend on which the plug-in was never tried.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from vllm.forward_context import set_forward_context
from vllm.logger import init_logger

from opsearch.errors import ModelError
from opsearch.policy.counts import KV, MLP, Q
from opsearch.serving.attention_groups import LayerCache, StepAttention, layer_caches
from opsearch.serving.decoder import add_rows, project_keys, project_queries
from opsearch.serving.prompt_rows import PromptRows, PromptShape
from opsearch.serving.served_policy import CHECKS_KEY, n_positions
from opsearch.serving.step import Scheduled, Step

Sizes = tuple[int, int, int]  # text, visual tokens, text
_PROMPTS: tuple[Sizes, Sizes] = ((5, 40, 6), (3, 23, 9))
_GENERATED = 2
_CHUNK = 24
_MOST_VISUAL, _MOST_TEXT = 600, 30  # of further prompts
# Largest difference of hidden states, relative to their root mean square.
_TOLERANCE = {torch.float32: 1e-3, torch.float16: 5e-2, torch.bfloat16: 2e-1}

logger = init_logger(f"vllm.{__name__}")  # below the logger that vLLM sets up


@dataclass(eq=False)
class _Sample:
    """A random prompt.

    Attributes:
        prompt: Its rows.
        hidden: Inputs of the decoder, with generated rows, [S, D].
        computed: Rows that have run.
    """

    prompt: PromptRows
    hidden: Tensor
    computed: int = 0


@torch.inference_mode()
def check_served(runner: Any, serving: Any) -> None:
    """Compare the decoder under a policy with the reference.

    Args:
        runner: vLLM's V1 model runner with its caches.
        serving: State of the model that is served.

    Raises:
        ModelError: They differ.
    """
    generator = torch.Generator().manual_seed(0)
    found: list[Tensor] = []
    for sizes in _pairs(runner, generator):
        samples = [_sample(serving, each, generator, runner) for each in sizes]
        if all(Step([Scheduled(each.prompt, 0, 1)]).pruned for each in samples):
            found += _differences(runner, serving, samples, generator)
    if not found:
        logger.info("opsearch: no self-check, because the policy prunes nothing of short prompts")
        return
    worst = float(torch.stack(found).max())  # nan if any is
    if not worst <= _TOLERANCE[serving.decoder.embed_tokens.weight.dtype]:
        raise ModelError(
            f"hidden states under the policy differ from masked attention by {worst:.2g} of their "
            "size, so that answers would be wrong; serve without the policy, and report the "
            "machine and vLLM's log"
        )
    logger.info("opsearch: self-check passed, largest difference %.1e of the hidden states", worst)


def _pairs(runner: Any, generator: torch.Generator) -> list[Sequence[Sizes]]:
    """Return the sizes of the prompts of each pair."""
    config = runner.model_config.hf_config
    rows = min(n_positions(config), _rows_in_cache(runner)) - _GENERATED - 2 * _MOST_TEXT

    def upto(most: int) -> int:
        return int(torch.randint(1, max(most, 1) + 1, (), generator=generator))

    def further() -> Sizes:
        return upto(_MOST_TEXT), upto(min(_MOST_VISUAL, rows)), upto(_MOST_TEXT)

    checks = int(getattr(config, CHECKS_KEY, 1))
    return [_PROMPTS, *((further(), further()) for _ in range(checks - 1))]


def _rows_in_cache(runner: Any) -> int:
    """Return how long each prompt of a pair can be; each group of the cache has its own blocks."""
    groups = runner.kv_cache_config.kv_cache_groups
    block_size = min(int(group.kv_cache_spec.block_size) for group in groups)
    return (int(runner.kv_cache_config.num_blocks) // (2 * len(groups)) - 1) * block_size


def _differences(
    runner: Any, serving: Any, samples: Sequence[_Sample], generator: torch.Generator
) -> list[Tensor]:
    """Return the largest differences of hidden states of text, relative to their size."""
    references = [_reference(serving.decoder, sample) for sample in samples]
    found = []
    for chunks in _chunks(samples, generator):
        outputs = _run(runner, serving, samples, chunks)
        for sample, rows, output, whole in zip(samples, chunks, outputs, references, strict=True):
            part = slice(sample.computed, sample.computed + rows)
            expected, text = whole[part], _ranks(sample)[part] < 0
            difference = (output - expected)[text].abs()
            if len(difference):
                found.append(difference.max().float() / expected.float().square().mean().sqrt())
            sample.computed += rows
    return found


def _sample(serving: Any, sizes: Sizes, generator: torch.Generator, runner: Any) -> _Sample:
    before, n_visual, after = sizes
    visual = torch.tensor([False] * before + [True] * n_visual + [False] * after)
    length = len(visual)
    axes = 3 if hasattr(serving.model, "get_mrope_input_positions") else 1
    prompt = PromptRows.of(
        PromptShape(visual, n_visual),
        serving.policy.counts(n_visual),
        torch.randperm(n_visual, generator=generator),
        torch.arange(length).expand(axes, -1),
        length,
    )
    weight = serving.decoder.embed_tokens.weight
    hidden = torch.randn(length + _GENERATED, weight.shape[-1], generator=generator)
    return _Sample(prompt, hidden.to(runner.device, weight.dtype))


def _chunks(samples: Sequence[_Sample], generator: torch.Generator) -> Iterator[list[int]]:
    """Yield the numbers of rows of each sample in the next step, until all have run."""
    while any(sample.computed < len(sample.hidden) for sample in samples):
        most = max(_CHUNK, max(len(sample.hidden) for sample in samples) // 8)
        sizes = torch.randint(1, most, (len(samples),), generator=generator).tolist()
        yield [
            min(size, len(sample.hidden) - sample.computed)
            for size, sample in zip(sizes, samples, strict=True)
        ]


def _run(
    runner: Any, serving: Any, samples: Sequence[_Sample], chunks: Sequence[int]
) -> list[Tensor]:
    """Return the last hidden states of a step of these samples, [rows, D] each."""
    alive = [(s, rows) for s, rows in zip(samples, chunks, strict=True) if rows]
    numbers = [index for index, rows in enumerate(chunks) if rows]
    step = Step([Scheduled(sample.prompt, sample.computed, rows) for sample, rows in alive])
    blocks = runner.kv_cache_config.num_blocks
    caches = [
        _with_last_blocks(cache, numbers, blocks, max(len(sample.hidden) for sample in samples))
        for cache in layer_caches(runner, serving.attention_names)
    ]
    serving.step = StepAttention(step, caches, runner.device)
    hidden = torch.cat([s.hidden[s.computed : s.computed + rows] for s, rows in alive])
    nothing = dict.fromkeys(serving.attention_names)
    with set_forward_context(nothing, runner.vllm_config, len(hidden), slot_mapping=dict(nothing)):
        output = serving.decoder(None, serving.step.positions, inputs_embeds=hidden)
    serving.step = None
    parts = iter(output.split([rows for _, rows in alive]))
    return [next(parts) if rows else hidden[:0] for rows in chunks]


def _with_last_blocks(
    cache: LayerCache, numbers: Sequence[int], blocks: int, longest: int
) -> LayerCache:
    """Give samples the last blocks of a cache, which no request has yet.

    Layers of several groups share memory, so that each group has its own.
    """
    width = -(-longest // cache.block_size)
    rows = torch.tensor(numbers) + cache.number * len(_PROMPTS)
    first = rows[:, None] * width + torch.arange(width)
    return replace(cache, block_table=(blocks - 1 - first).int())


def _ranks(sample: _Sample) -> Tensor:
    """Return the rank of each row, -1 for text and generated rows, int64[S]."""
    return torch.cat([sample.prompt.rank, torch.full((_GENERATED,), -1)])


def _reference(decoder: Any, sample: _Sample) -> Tensor:
    """Return the last hidden states of a whole prompt by masked attention, [S, D]."""
    stream = sample.hidden
    ranks = _ranks(sample).to(stream.device)
    start = sample.prompt.next_position
    after = torch.arange(start, start + _GENERATED).expand(len(sample.prompt.positions), -1)
    positions = torch.cat([sample.prompt.positions, after], -1).to(stream.device)
    positions = positions[0] if len(positions) == 1 else positions
    for layer, counts in zip(decoder.layers, sample.prompt.counts.tolist(), strict=True):
        queries, kept, rows = (ranks < counts[module] for module in (Q, KV, MLP))
        attended = _masked(layer.self_attn, positions, layer.input_layernorm(stream), kept)
        here = queries.nonzero()[:, 0]
        stream = add_rows(stream, here, layer.self_attn.o_proj(attended[here])[0])
        here = rows.nonzero()[:, 0]
        normed = layer.post_attention_layernorm(stream[here])
        stream = add_rows(stream, here, layer.mlp(normed))
    return decoder.norm(stream)  # type: ignore[no-any-return]


def _masked(attention: Any, positions: Tensor, normed: Tensor, kept: Tensor) -> Tensor:
    """Return the attention of all rows to the kept ones up to them, [S, heads * hd]."""
    keys, values = project_keys(attention, positions, normed)
    q = project_queries(attention, positions, normed).unflatten(-1, (-1, attention.head_dim))
    k, v = (each.unflatten(-1, (-1, attention.head_dim)) for each in (keys, values))
    shared = q.shape[1] // k.shape[1]
    q, k, v = (each.transpose(0, 1).float() for each in (q, k, v))
    k, v = (each.repeat_interleave(shared, 0) for each in (k, v))
    visible = torch.ones(len(normed), len(normed), device=normed.device).tril().bool() & kept
    logits = (q @ k.transpose(1, 2) * attention.scaling).masked_fill(~visible, -torch.inf)
    attended: Tensor = (logits.softmax(-1) @ v).transpose(0, 1).flatten(1)
    return attended.to(normed.dtype)
