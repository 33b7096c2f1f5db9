"""Suite `rankers`: time to select the visual tokens, as a share of the original's prefill.

Each ranker keeps 2/9 of 576 tokens of one tile (128) and of 2,880 of five (640), batch 1, of random
features. Those inside the decoder rank once over all tokens; PyramidDrop and SparseVLM in fact rank
three times, later over fewer tokens, and FitPrune in every layer that deletes. The prefill is that
of the decoder: LLaVA-1.5-7B and LLaVA-NeXT-7B of random weights in bfloat16 on a CUDA device;
elsewhere the model of `cpu-latency`, where rankers take a larger share than of a 7B model's
prefill. Capturing features in the vision tower is not counted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.cpu_latency import SHAPE
from benchmarks.measuring import free_memory, versions
from benchmarks.rows import BenchmarkRow
from opsearch.costs.shape import CHECKPOINTS, Shape
from opsearch.models.decoder import Decoder
from opsearch.models.pruned.plan import BatchReranking, Plan, PlanInputs
from opsearch.models.pruned.ranking import decoder_scores
from opsearch.models.supported import check_supported
from opsearch.policy.ranker import RankerSpec
from opsearch.rankers import DECODER_RANKERS, RANKERS, make_decoder_ranker, make_ranker
from opsearch.rankers.base import Prompt, ranking_from_scores
from opsearch.timing.clock import Clock, Spread
from opsearch.timing.generation import timed
from opsearch.timing.random_models import random_model, random_workload

TILES = {1: "llava-1.5-7b", 5: "llava-next-7b"}
"""Numbers of tiles, and a checkpoint with that number."""
_TILE, _OTHER, _VISION_WIDTH = 576, 65, 1024
_TINY = Shape(2, 64, 96, 4, 4, 16, 128)


def rankers(tiny: bool) -> Iterator[BenchmarkRow]:
    """Yield the machine, then for each number of tokens a row of the prefill and one per ranker.

    Args:
        tiny: Use small models and few tokens, as a smoke test.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    yield {
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
        "threads": torch.get_num_threads(),
        "versions": versions(),
    }
    for tiles, checkpoint in TILES.items():
        size = 36 if tiny else _TILE
        on_gpu = device.type == "cuda" and not tiny
        shape = _TINY if tiny else CHECKPOINTS[checkpoint].shape if on_gpu else SHAPE
        dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
        model = random_model("llava", shape, dtype, str(device))
        placed = {"visual": tiles * size, "tiles": tiles}
        prefill = _prefill(model, tiles * size, 2 if tiny else 7 if on_gpu else 3)
        called = checkpoint if on_gpu else f"{shape.layers} layers of width {shape.hidden}"
        yield {**placed, "model": called, "prefill_ms": prefill.row(1e3)}
        for named, order in _orders(model, random_prompt(tiles, size, shape, device)):
            spent = seconds(order, device, 2 if tiny else 10)
            yield {
                **placed,
                **named,
                "ms": spent.row(1e3),
                "share_of_prefill": round(spent.median / prefill.median, 5),
            }
        del model, order
        free_memory(device.type)


@torch.inference_mode()
def seconds(choose: Callable[[], Any], device: torch.device, repeats: int) -> Spread:
    """Return the spread of `repeats` calls, after two warm-ups."""
    clock, found = Clock(device), []
    for _ in range(2 + repeats):
        clock.wait()
        start = clock.now()
        choose()
        end = clock.now()
        clock.wait()
        found.append(clock.seconds(start, end))
    return Spread.of(found[2:])


def _orders(model: Any, prompt: Prompt) -> Iterator[tuple[BenchmarkRow, Callable[[], Any]]]:
    """Yield each ranker's name, with the number of tokens that it keeps or orders, and its work."""
    (total,) = prompt.n_visual
    kept = 2 * total // 9
    for name in RANKERS:
        rank = make_ranker(RankerSpec(name)).rank
        yield {"ranker": name, "kept": kept}, partial(rank, prompt, [kept])
    for name in DECODER_RANKERS:
        yield {"ranker": name, "ordered": total}, _decoder_ranking(model, name, prompt)


def _decoder_ranking(model: Any, name: str, prompt: Prompt) -> Callable[[], Tensor]:
    """Return a function that orders the prompts' visual tokens by the first layer's attention.

    It reads the embeddings and returns ranks, int64[B, S]. It covers a layer's projection of
    queries and keys for the ranker, its scores, and the new order of all visual tokens.
    """
    decoder = Decoder.of(model, check_supported(model))
    candidates = np.array(prompt.n_visual, np.int64)
    counts = np.tile(candidates[:, None, None], (1, len(decoder.layers), 3))
    plan = Plan(PlanInputs(prompt, torch.where(prompt.visual, 0, -1), counts, {}))
    reranking = BatchReranking(make_decoder_ranker(RankerSpec(name)), 0, candidates)
    assert prompt.embeds is not None
    stream = prompt.embeds[prompt.real].to(model.dtype)
    positions = torch.arange(prompt.visual.shape[1], device=stream.device)[None]
    layer, rows = decoder.layers[0], plan.arriving(0)
    rotary = decoder.rotary(stream, positions)[layer.kind]

    def order() -> Tensor:
        scores = decoder_scores(layer, plan, reranking, stream, rows, rotary, None)
        return ranking_from_scores(scores, prompt.visual)

    return order


@torch.inference_mode()
def _prefill(model: Any, n_visual: int, repeats: int) -> Spread:
    """Time the original's decoder and lm_head up to the first token."""
    work = random_workload(model, 1, n_visual, _OTHER)
    timed(model, work.inputs, 1)  # warms up
    return Spread.of([timed(model, work.inputs, 1).prefill for _ in range(repeats)])


def random_prompt(tiles: int, size: int, shape: Shape, device: torch.device) -> Prompt:
    """Return a prompt of text, an image of random features, and a question."""
    n_visual = tiles * size
    length = n_visual + _OTHER
    visual = torch.zeros(1, length, dtype=torch.bool, device=device)
    visual[:, _OTHER // 2 : _OTHER // 2 + n_visual] = True
    generator = torch.Generator().manual_seed(0)

    def random(*sizes: int) -> Tensor:
        return torch.randn(*sizes, generator=generator).to(device)

    captured = {
        "cls_attention": random(n_visual),
        "vision_features": random(n_visual, _VISION_WIDTH),
        "received_attention:0.5": random(n_visual),
        "previous_frame": torch.zeros(n_visual, dtype=torch.int64),
        "tiles": torch.arange(n_visual) // size,
    }
    embeds = random(1, length, shape.hidden)
    return Prompt(visual, torch.ones_like(visual), (n_visual,), captured, embeds)
