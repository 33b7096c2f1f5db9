"""Threads that compute independent parts, each on one core."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

Part = TypeVar("Part")
Result = TypeVar("Result")


def one_per_core(
    function: Callable[[Part], Result], parts: Sequence[Part], threads: int
) -> list[Result]:
    """Return the results of a function on parts, computed on several threads at once.

    Args:
        function: It may record gradients: inference mode is off in other threads.
        parts: The parts.
        threads: Number of threads; 1: this one, with all its cores.
    """
    if threads == 1 or len(parts) == 1:
        return [function(part) for part in parts]
    before = torch.get_num_threads()
    try:
        with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            return list(pool.map(function, parts))
    finally:
        torch.set_num_threads(before)
