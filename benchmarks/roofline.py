"""Lower bound of a prefill's time on this device, from its measured speeds."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch

from opsearch.costs.flops import flops
from opsearch.costs.shape import Shape
from opsearch.policy.counts import Counts
from opsearch.timing.clock import Clock

_REPEATS = 10


@dataclass(frozen=True)
class Roofline:
    """Measured speeds of a device.

    Attributes:
        flops: FLOPs per second of a large matrix product.
        bytes: Bytes moved per second.
    """

    flops: float
    bytes: float

    @classmethod
    def measure(cls, dtype: torch.dtype, device: torch.device, size: int) -> Roofline:
        """Measure the best of ten products of size x size matrices, and copies of 16 of them."""
        a = torch.randn(size, size, device=device).to(dtype)
        source = a.repeat(16, 1)
        target = torch.empty_like(source)
        out = torch.empty_like(a)
        product, copy = [], []
        clock = Clock(device)
        for _ in range(_REPEATS):
            stamps = [clock.now()]
            torch.mm(a, a, out=out)
            stamps.append(clock.now())
            target.copy_(source)
            stamps.append(clock.now())
            clock.wait()
            product.append(clock.seconds(*stamps[:2]))
            copy.append(clock.seconds(*stamps[1:]))
        moved = 2 * source.numel() * source.element_size()
        return cls(2 * size**3 / min(product), moved / min(copy))

    def floor(self, shape: Shape, counts: Counts, n_visual: int, n_other: int, batch: int) -> float:
        """Return the least seconds of the layers, each bound by FLOPs or by reading weights.

        Args:
            shape: Shape of the decoder; weights are as wide as the elements of the KV cache.
            counts: Executed visual tokens, int64[L, 3].
            n_visual: Visual tokens.
            n_other: Other tokens.
            batch: Number of prompts.
        """
        layer = replace(shape, layers=1, vocab=0)  # vocab 0: without the lm_head
        compute = batch * flops(counts[:, None, :], n_visual, n_other, layer) / self.flops
        attention = 2 * shape.hidden * (shape.q_width + shape.kv_width)
        weights = attention + 3 * shape.hidden * shape.intermediate
        read = weights * shape.kv_bytes_per_element / self.bytes
        return float(np.maximum(compute, read).sum())
