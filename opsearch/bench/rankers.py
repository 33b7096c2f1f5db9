"""Suite `rankers`: what choosing the visual tokens takes, as a share of the original's prefill.

Each ranker keeps 2/9 of 576 tokens of one tile (128) and of 2,880 of five (640), batch 1, of random
features. The prefill is that of the decoder: LLaVA-1.5-7B and LLaVA-NeXT-7B of random weights in
bfloat16 on a CUDA device; elsewhere the model of `cpu-latency`, so that rankers take a larger share
there than of a 7B model's prefill. Capturing features in the vision tower is not counted.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from importlib.metadata import version

import torch

from opsearch.bench.checkpoints import random_model, random_workload
from opsearch.bench.clock import Clock
from opsearch.bench.cpu_latency import SHAPE
from opsearch.bench.latency import Row
from opsearch.bench.passes import timed
from opsearch.bench.spread import Spread
from opsearch.costs.shape import SHAPES, Shape
from opsearch.policy import RankerSpec
from opsearch.rankers import RANKERS, Ranker, make_ranker
from opsearch.rankers.prompt import Prompt

_TILE, _OTHER, _VISION_WIDTH = 576, 65, 1024
_CHECKPOINTS = {1: "llava-1.5-7b", 5: "llava-next-7b"}  # by number of tiles
_TINY = Shape(2, 64, 96, 4, 4, 16, 128)


def rankers(tiny: bool) -> Iterator[Row]:
    """The machine, then for each number of tokens a row of the prefill and one per ranker.

    tiny: small models and few tokens, to see that the suite runs.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    yield {
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
        "threads": torch.get_num_threads(),
        "versions": {name: version(name) for name in ("torch", "transformers", "numpy")},
    }
    for tiles, checkpoint in _CHECKPOINTS.items():
        size = 36 if tiny else _TILE
        on_gpu = device.type == "cuda" and not tiny
        shape = _TINY if tiny else SHAPES[checkpoint] if on_gpu else SHAPE
        placed = {"visual": tiles * size, "tiles": tiles}
        prefill = _prefill(shape, tiles * size, device, 2 if tiny else 7 if on_gpu else 3)
        model = checkpoint if on_gpu else f"{shape.layers} layers of width {shape.hidden}"
        yield {**placed, "model": model, "prefill_ms": prefill.row(1e3)}
        for name in RANKERS:
            ranker, prompt = make_ranker(RankerSpec(name)), _prompt(tiles, size, shape, device)
            kept = 2 * tiles * size // 9
            seconds = _seconds(ranker, prompt, kept, 2 if tiny else 10)
            yield {
                **placed,
                "ranker": name,
                "kept": kept,
                "ms": seconds.row(1e3),
                "share_of_prefill": round(seconds.median / prefill.median, 5),
            }


@torch.inference_mode()
def _prefill(shape: Shape, n_visual: int, device: torch.device, repeats: int) -> Spread:
    """Seconds of the original's decoder and lm_head up to the first token."""
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    model = random_model("llava", shape, dtype, str(device))
    work = random_workload(model, 1, n_visual, _OTHER)
    timed(model, work.inputs, 1)  # warms up
    found = Spread.of([timed(model, work.inputs, 1).prefill for _ in range(repeats)])
    del model
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    return found


@torch.inference_mode()
def _seconds(ranker: Ranker, prompt: Prompt, kept: int, repeats: int) -> Spread:
    clock, found = Clock(prompt.visual.device), []
    for _ in range(2 + repeats):  # two warm up
        clock.wait()
        start = clock.now()
        ranker.rank(prompt, [kept])
        end = clock.now()
        clock.wait()
        found.append(clock.seconds(start, end))
    return Spread.of(found[2:])


def _prompt(tiles: int, size: int, shape: Shape, device: torch.device) -> Prompt:
    """Text, an image of random features, and a question."""
    n_visual = tiles * size
    length = n_visual + _OTHER
    visual = torch.zeros(1, length, dtype=torch.bool, device=device)
    visual[:, _OTHER // 2 : _OTHER // 2 + n_visual] = True
    generator = torch.Generator().manual_seed(0)

    def random(*sizes: int) -> torch.Tensor:
        return torch.randn(*sizes, generator=generator).to(device)

    captured = {
        "cls_attention": random(n_visual),
        "vision_features": random(n_visual, _VISION_WIDTH),
        "tiles": torch.arange(n_visual) // size,
    }
    embeds = random(1, length, shape.hidden)
    return Prompt(visual, torch.ones_like(visual), (n_visual,), captured, embeds)
