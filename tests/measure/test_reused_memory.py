"""Memory freed within a measurement is used again instead of mapped anew."""

import resource
import subprocess
import sys
from pathlib import Path

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
    """In a process of its own, because other tests leave the heap in pieces."""
    code = "from tests.measure.test_reused_memory import measured; print(*measured())"
    root = Path(__file__).parent.parent.parent
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True
    )
    everywhere, reused = map(int, done.stdout.split())
    if everywhere < TENSORS * SIZE // PAGE * 3 / 4:
        pytest.skip("this allocator, huge pages or free memory spare the faults anyway")
    assert reused < everywhere / 2


def measured():
    """Return the page faults of the tensors without and with reused memory."""
    everywhere = faults()
    with reused_memory():
        # The first ones cost some, until freed neighbours form a large enough block.
        return everywhere, faults()
