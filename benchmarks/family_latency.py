"""Suite `family-latency`: prefill time against FLOPs in families of other structure, on a CPU.

Decoders as deep as those of Qwen3-VL-8B, SmolVLM2-2.2B and Gemma 3 4B, of an eighth, a quarter and
a fifth of their widths, with random float32 weights, on the prompt of a typical image, batch 1.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from benchmarks.measuring import versions
from benchmarks.rows import BenchmarkRow
from benchmarks.rules import by_rule
from opsearch.costs.shape import Shape
from opsearch.timing.generation import timed, timed_pairs
from opsearch.timing.policy_latency import latency_row
from opsearch.timing.random_models import random_model, random_workload

# Family, decoder, visual and other tokens.
PROMPTS: dict[str, tuple[Shape, int, int]] = {
    "qwen3_vl": (Shape(36, 512, 1536, 4, 1, 128, 8192, kv_bytes_per_element=4), 784, 45),
    "smolvlm": (Shape(24, 512, 2048, 8, 8, 64, 8192, kv_bytes_per_element=4), 1377, 65),
    "gemma3": (Shape(34, 512, 2048, 2, 1, 256, 8192, kv_bytes_per_element=4), 256, 65),
}
TINY = Shape(6, 64, 96, 4, 2, 16, 128, kv_bytes_per_element=4)
_RULES = ("tokens", "dop", "dop, kv stays")
_BUDGETS = (0.14, 0.3, 0.5)
_PAIRS = 3


def family_latency(tiny: bool) -> Iterator[BenchmarkRow]:
    """Yield the machine, then a row per family, rule and budget that the text leaves room for.

    Args:
        tiny: Use models of a few weights, as a smoke test.
    """
    yield {"threads": torch.get_num_threads(), "versions": versions()}
    for family, (shape, n_visual, n_other) in PROMPTS.items():
        shape, n_visual = (TINY, 60) if tiny else (shape, n_visual)
        model = random_model(family, shape, torch.float32, "cpu")
        work = random_workload(model, 1, n_visual, n_other)
        with torch.inference_mode():
            timed(model, work.inputs, 2)  # warms up
        for rule in _RULES:
            for budget in _BUDGETS:
                policy = by_rule(rule, budget, shape, n_visual, n_other)
                if policy is None:
                    continue
                pairs = list(timed_pairs(model, work, policy, 2, _PAIRS, warmups=0))
                row = latency_row(shape, policy, work, pairs)
                yield {"family": family, "rule": rule, "budget": budget, **row}
