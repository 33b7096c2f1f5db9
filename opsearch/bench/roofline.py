"""The least time that a prefill's layers can take on this device, from its measured speeds."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch

from opsearch.bench.clock import Clock
from opsearch.costs.flops import flops
from opsearch.costs.shape import Shape
from opsearch.policy import Counts

_REPEATS = 10


@dataclass(frozen=True)
class Roofline:
    """Measured speeds of a device: FLOPs of a large matrix product and bytes moved, per second."""

    flops: float
    bytes: float

    @classmethod
    def measure(cls, dtype: torch.dtype, device: torch.device, size: int) -> Roofline:
        """The best of ten products of size x size matrices, and copies of 16 of them."""
        a = torch.randn(size, size, device=device).to(dtype)
        source = a.repeat(16, 1)
        target = torch.empty_like(source)
        out = torch.empty_like(a)
        product, copy = [], []
        clock = Clock(device)
        for _ in range(_REPEATS):
            moments = [clock.now()]
            torch.mm(a, a, out=out)
            moments.append(clock.now())
            target.copy_(source)
            moments.append(clock.now())
            clock.wait()
            product.append(clock.seconds(*moments[:2]))
            copy.append(clock.seconds(*moments[1:]))
        moved = 2 * source.numel() * source.element_size()
        return cls(2 * size**3 / min(product), moved / min(copy))

    def floor(self, shape: Shape, counts: Counts, n_visual: int, n_other: int, batch: int) -> float:
        """Seconds of a prefill's layers: each takes its FLOPs or reading its weights, the longer.

        counts: int64[L, 3] as executed; the weights are as wide as the elements of the KV cache.
        """
        layer = replace(shape, layers=1, vocab=0)  # vocab 0: without the lm_head
        compute = batch * flops(counts[:, None, :], n_visual, n_other, layer) / self.flops
        attention = 2 * shape.hidden * (shape.q_width + shape.kv_width)
        weights = attention + 3 * shape.hidden * shape.intermediate
        read = weights * shape.kv_bytes_per_element / self.bytes
        return float(np.maximum(compute, read).sum())
