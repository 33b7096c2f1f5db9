"""Costs of a policy: exact integers from counts and the dimensions of the decoder.

A cost is a class with `name`, `unit`, `of` and `stock` (see cost.py), made from a `Shape` (and
`latency` of a measured table). To add one, write it in a file of its own and put it into `COSTS`.
"""

from __future__ import annotations

from collections.abc import Callable

from opsearch.costs.cost import Cost
from opsearch.costs.flops import Flops
from opsearch.costs.kv import KVBytes
from opsearch.costs.latency import Latency
from opsearch.costs.shape import Shape

COSTS: dict[str, Callable[[Shape], Cost]] = {
    "flops": Flops,
    "kv": KVBytes,
    "latency": Latency,
}
