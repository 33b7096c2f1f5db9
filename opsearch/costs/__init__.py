"""Costs of a policy: exact integers from its counts and the dimensions of the decoder.

A cost is a class with `name`, `unit`, `of` and `stock` (see `Cost`), created from a `Shape`; the
latency also needs a measured table. To add a cost, write it in its own file and add it to `COSTS`.
"""

from __future__ import annotations

from collections.abc import Callable

from opsearch.costs.base import Cost
from opsearch.costs.flops import Flops
from opsearch.costs.kv import KVBytes
from opsearch.costs.latency import Latency
from opsearch.costs.shape import Shape

COSTS: dict[str, Callable[[Shape], Cost]] = {
    "flops": Flops,
    "kv": KVBytes,
    "latency": Latency,
}
