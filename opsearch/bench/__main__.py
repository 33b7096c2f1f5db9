"""`python -m opsearch.bench --suite NAME`: a timed suite; one JSON row after every measurement.

The latency suites and those of rankers need nothing but torch, transformers and numpy.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator

from opsearch.bench.cpu_latency import cpu_latency
from opsearch.bench.engine import engine
from opsearch.bench.fronts import fronts
from opsearch.bench.gpu_engine import gpu_engine
from opsearch.bench.gpu_latency import gpu_latency
from opsearch.bench.gpu_rankers import gpu_rankers
from opsearch.bench.latency import Row
from opsearch.bench.latency_table import latency_table
from opsearch.bench.layer_programs import layer_programs
from opsearch.bench.rankers import rankers
from opsearch.bench.scaling import scaling
from opsearch.bench.solvers import solvers
from opsearch.errors import OpsearchError

SUITES: dict[str, Callable[[bool], Iterator[Row]]] = {
    "solvers": lambda tiny: solvers(),
    "layer-programs": lambda tiny: layer_programs(),
    "fronts": lambda tiny: fronts(),
    "engine": lambda tiny: engine(),
    "gpu-engine": gpu_engine,
    "scaling": lambda tiny: scaling(),
    "gpu-latency": gpu_latency,
    "cpu-latency": cpu_latency,
    "rankers": rankers,
    "gpu-rankers": gpu_rankers,
    "latency-table": latency_table,
}


def main() -> int:
    """Run a suite, print its rows as they come and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m opsearch.bench")
    parser.add_argument("--suite", choices=sorted(SUITES), required=True)
    parser.add_argument(
        "--tiny",
        action="store_true",
        help="latency and gpu suites, rankers: models of a few weights, on any device",
    )
    options = parser.parse_args()
    try:
        for row in SUITES[options.suite](options.tiny):
            print(json.dumps({"suite": options.suite, **row}), flush=True)
    except OpsearchError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
