"""Suite `gpu-rankers`: `rankers` on a CUDA device, and sequential selection as CUDA graphs.

A max-min or determinant selection of n tokens is a sequence of n short steps, for all tiles at
once. A graph launches all of them together; it saves only launches.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from benchmarks.gpu import STOPPED, gpu
from benchmarks.rankers import TILES, rankers, seconds
from benchmarks.rows import BenchmarkRow
from opsearch.rankers.cdpruner import determinant_picks
from opsearch.rankers.divprune import max_min_picks
from opsearch.rankers.tiles import cosines

_WIDTH = 4096  # of the embeddings of a 7B decoder


def gpu_rankers(tiny: bool, limit: float) -> Iterator[BenchmarkRow]:
    """Yield the rows of `rankers`, then one per sequential selection, with and without a graph.

    Args:
        tiny: Use small models and few tokens on any device.
        limit: Seconds after which no measurement starts.

    Raises:
        ModelError: There is no CUDA device and `tiny` is not set.
    """
    device = torch.device(gpu("gpu-rankers", tiny))
    until = time.monotonic() + limit
    for row in rankers(tiny):
        yield row
        if time.monotonic() > until:
            yield STOPPED
            return
    for tiles in TILES:
        size = 36 if tiny else 576
        for name, choose in _choices(tiles, size, device).items():
            yield {"visual": tiles * size, "tiles": tiles, "choice": name, **_timed(choose, device)}


def _choices(tiles: int, size: int, device: torch.device) -> dict[str, Callable[[], Tensor]]:
    """Return selections of 2/9 of random tokens: `divprune` over all tiles, `cdpruner` per tile."""
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randn(tiles, size, _WIDTH, generator=generator).to(device)
    relevance = 0.1 + torch.rand(tiles, size, generator=generator).to(device)
    apart, alike = 1 - cosines(tokens.reshape(1, tiles * size, _WIDTH)), cosines(tokens)
    everything, each = apart[..., 0] > -1, relevance > 0
    return {
        "divprune": lambda: max_min_picks(apart, everything, 2 * tiles * size // 9),
        "cdpruner": lambda: determinant_picks(alike, relevance, each, 2 * size // 9),
    }


def _timed(choose: Callable[[], Tensor], device: torch.device) -> BenchmarkRow:
    row = {"ms": seconds(choose, device, 10).row(1e3)}
    if device.type != "cuda":
        return row
    try:
        graph, recorded = _recorded(choose)
    except RuntimeError as error:
        return {**row, "skipped": f"no graph: {error}"}
    replayed = seconds(lambda: graph.replay(), device, 10).row(1e3)
    return {**row, "graph_ms": replayed, "same": torch.equal(recorded, choose())}


@torch.inference_mode()
def _recorded(choose: Callable[[], Tensor]) -> tuple[torch.cuda.CUDAGraph, Tensor]:
    """Record the selection as a graph; return it with its output tensor."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        choose()  # warm-up: no set-up while recording
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        picks = choose()
    return graph, picks
