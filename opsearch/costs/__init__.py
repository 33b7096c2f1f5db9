"""Costs of a policy: exact integers from its counts and the dimensions of the decoder.

The contract is `opsearch.costs.base.Cost`. A new cost is a file with one class, and a line here.
"""

from __future__ import annotations

from typing import Any

from opsearch.costs.flops import Flops
from opsearch.costs.kv import KVBytes
from opsearch.costs.latency import Latency
from opsearch.costs.prefill import Prefill

COSTS: dict[str, type[Any]] = {
    "flops": Flops,
    "prefill": Prefill,
    "kv": KVBytes,
    "latency": Latency,
}
