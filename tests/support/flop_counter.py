"""Formulas for torch's FlopCounterMode that it lacks."""

from typing import Any

import torch
from torch.utils.flop_counter import sdpa_flop_count


def _sdpa(q: Any, k: Any, v: Any, *args: Any, out_shape: Any = None, **kwargs: Any) -> int:
    return sdpa_flop_count(q, k, v)


def _experts(rows: Any, weights: Any, *args: Any, out_shape: Any = None, **kwargs: Any) -> int:
    return 2 * rows[0] * weights[-2] * weights[-1]


# Without formulas for sdpa on a CPU and for experts, the counter would count them as 0 FLOPs.
CPU_KERNEL = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _sdpa,
    torch.ops.aten._grouped_mm: _experts,
}
