"""Settings of all tests: no network, one thread per process, no time limits on properties."""

import importlib.util
import os
import signal

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch
from hypothesis import settings

# A loaded machine must not fail a law; the same examples are drawn in every run.
settings.register_profile("opsearch", deadline=None, derandomize=True)
settings.load_profile("opsearch")


def pytest_collection_modifyitems(items):
    """Leave out what needs torchvision, or a GPU, where there is none."""
    there = {
        "requires_torchvision": importlib.util.find_spec("torchvision") is not None,
        "gpu": torch.cuda.is_available(),
    }
    for item in items:
        for needed, found in there.items():
            if needed in item.keywords and not found:
                item.add_marker(pytest.mark.skip(reason=f"marked {needed}, which is not here"))


def declare_missing_operators():
    """Let a torchvision be imported whose compiled part does not fit this torch.

    Its processors need none of it, but the package registers shapes of these two operators.
    """
    library = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    return library


if importlib.util.find_spec("torchvision"):
    try:
        import torchvision  # noqa: F401
    except RuntimeError:
        kept = declare_missing_operators()  # they are there as long as this object is


@pytest.fixture(scope="module")
def flash_attn():
    """A test of models with FlashAttention, by the stand-in for its package."""
    from tests.support.flash import installed

    with installed():
        yield


@pytest.fixture
def ctrl_c():
    """A test in which SIGINT raises KeyboardInterrupt, here and in the processes that it starts.

    Under nohup or in the background of a script SIGINT is ignored, which child processes inherit.
    """
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def no_grad():
    """A test that calls models without autograd."""
    with torch.inference_mode():
        yield
