"""Memory freed within a sweep is used again, and returns to the system afterwards."""

import resource
import sys

import pytest
import torch

from opsearch.measure.sweep.reused_memory import reused_memory

SIZE, PAGE = 2**26, 2**12


def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(SIZE, dtype=torch.uint8)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


@pytest.mark.skipif(sys.platform != "linux", reason="other systems allocate otherwise")
def test_only_the_first_tensor_costs_page_faults():
    if faults() < SIZE // PAGE // 2 or faults() < SIZE // PAGE // 2:
        pytest.skip("this allocator, or huge pages, cost no faults anyway")
    with reused_memory():
        faults()
        assert faults() < SIZE // PAGE // 10
    faults()
    assert faults() >= SIZE // PAGE // 2
