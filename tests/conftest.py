"""Settings of all tests: no network, one thread per process, no time limits on properties."""

import importlib.util
import os
import signal

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch
from hypothesis import settings

# No deadline, because the machine may be loaded; every run draws the same examples.
settings.register_profile("opsearch", deadline=None, derandomize=True)
settings.load_profile("opsearch")


def pytest_collection_modifyitems(items):
    """Skip tests that need torchvision, or a GPU, where there is none."""
    available = {
        "requires_torchvision": importlib.util.find_spec("torchvision") is not None,
        "gpu": torch.cuda.is_available(),
    }
    for item in items:
        for needed, found in available.items():
            if needed in item.keywords and not found:
                item.add_marker(pytest.mark.skip(reason=f"marked {needed}, which is not available"))


def declare_missing_operators():
    """Declare two operators, so that a torchvision can be imported without its compiled part.

    Its processors use none of it, but the package registers shapes of these operators.
    """
    library = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    return library


if importlib.util.find_spec("torchvision"):
    try:
        import torchvision  # noqa: F401
    except RuntimeError:
        kept = declare_missing_operators()  # the operators exist as long as this object does


@pytest.fixture(scope="module")
def flash_attn():
    """Install the stand-in for flash_attn."""
    from tests.support.flash import installed

    with installed():
        yield


@pytest.fixture
def ctrl_c():
    """Make SIGINT raise KeyboardInterrupt, also in child processes.

    Under nohup or in the background of a script SIGINT is ignored, which child processes inherit.
    """
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def no_grad():
    """Disable autograd for a test."""
    with torch.inference_mode():
        yield
