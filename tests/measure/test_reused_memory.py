"""Memory freed within a measurement is used again instead of mapped anew."""

import resource
import sys

import pytest
import torch

from opsearch.measure.sweep.reused_memory import reused_memory

SIZE, PAGE, TENSORS = 2**26, 2**12, 24


def faults():
    """Return the page faults of tensors made and freed one after the other."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(TENSORS):
        torch.ones(SIZE, dtype=torch.uint8)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


@pytest.mark.skipif(sys.platform != "linux", reason="other systems allocate otherwise")
def test_few_tensors_cost_page_faults():
    everywhere = TENSORS * SIZE // PAGE
    if faults() < everywhere * 3 / 4:
        pytest.skip("this allocator, huge pages or free memory spare the faults anyway")
    with reused_memory():
        # The first ones do, until freed neighbours form a large enough block.
        assert faults() < everywhere / 2
