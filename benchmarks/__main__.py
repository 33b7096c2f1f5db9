"""`python -m benchmarks --suite NAME`: a timed suite; prints a JSON row per measurement.

The latency and ranker suites need only torch, transformers and numpy.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator

from benchmarks.code_size import code_size
from benchmarks.cpu_latency import cpu_latency
from benchmarks.descent import descent_step
from benchmarks.engine import engine
from benchmarks.engine_share import engine_share
from benchmarks.family_latency import family_latency
from benchmarks.fingerprint import fingerprint_speed
from benchmarks.fronts import fronts
from benchmarks.gpu_engine import gpu_engine
from benchmarks.gpu_latency import gpu_latency
from benchmarks.gpu_rankers import gpu_rankers
from benchmarks.latency_table import latency_table
from benchmarks.layer_programs import layer_programs
from benchmarks.rankers import rankers
from benchmarks.rows import BenchmarkRow
from benchmarks.scaling import scaling
from benchmarks.solvers import solvers
from benchmarks.token_reduction import token_reduction
from benchmarks.waiting import waiting
from opsearch.errors import OpsearchError


def _racing(tiny: bool) -> Iterator[BenchmarkRow]:
    from benchmarks.racing import racing  # needs pydantic, which machines for the other suites lack

    yield from racing(tiny)


SUITES: dict[str, Callable[[bool, float], Iterator[BenchmarkRow]]] = {
    "solvers": lambda tiny, limit: solvers(),
    "layer-programs": lambda tiny, limit: layer_programs(),
    "fronts": lambda tiny, limit: fronts(),
    "engine": lambda tiny, limit: engine(),
    "engine-share": lambda tiny, limit: engine_share(tiny),
    "descent": lambda tiny, limit: descent_step(tiny),
    "gpu-engine": gpu_engine,
    "scaling": lambda tiny, limit: scaling(),
    "gpu-latency": gpu_latency,
    "cpu-latency": lambda tiny, limit: cpu_latency(tiny),
    "family-latency": lambda tiny, limit: family_latency(tiny),
    "fingerprint": lambda tiny, limit: fingerprint_speed(tiny),
    "racing": lambda tiny, limit: _racing(tiny),
    "rankers": lambda tiny, limit: rankers(tiny),
    "gpu-rankers": gpu_rankers,
    "latency-table": lambda tiny, limit: latency_table(tiny),
    "code-size": lambda tiny, limit: code_size(),
    "token-reduction": lambda tiny, limit: token_reduction(tiny),
    "waiting": lambda tiny, limit: waiting(),
}


def main() -> int:
    """Run a suite, print its rows as they come and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks")
    parser.add_argument("--suite", choices=sorted(SUITES), required=True)
    parser.add_argument(
        "--tiny",
        action="store_true",
        help="latency and gpu suites, rankers, fingerprint: models of few weights, on any device; "
        "racing: few samples; engine-share, descent and token-reduction: two samples",
    )
    parser.add_argument(
        "--seconds",
        type=float,
        default=420.0,
        help="gpu suites: start no further measurement after this many seconds (420)",
    )
    options = parser.parse_args()
    try:
        for row in SUITES[options.suite](options.tiny, options.seconds):
            print(json.dumps({"suite": options.suite, **row}), flush=True)
    except OpsearchError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
