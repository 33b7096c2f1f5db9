"""Formulas for torch's FlopCounterMode that it lacks."""

from typing import Any

import torch
from torch.utils.flop_counter import sdpa_flop_count


def _sdpa(q: Any, k: Any, v: Any, *args: Any, out_shape: Any = None, **kwargs: Any) -> int:
    return sdpa_flop_count(q, k, v)


# The counter has no formula for sdpa's CPU kernel and would count it as 0 FLOPs.
CPU_KERNEL = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _sdpa}
