"""Declare two operators of torchvision before its import, in every process of the tests with vLLM.

vLLM requires torchvision, whose builds on PyPI expect a CUDA build of torch: with torch for CPUs
its compiled part cannot be loaded, and its import fails where the package registers shapes of these
operators. Nothing that the tests run uses them. `tests/conftest.py` does the same for the process
of the tests, but vLLM starts further ones, which read only this module, by PYTHONPATH.
"""

import sys


class _BeforeImport:
    """Finder that declares the operators when torchvision is first looked for."""

    def find_spec(self, name, path=None, target=None):
        """Find nothing, so that the next finder does."""
        if name == "torchvision":
            sys.meta_path.remove(self)
            declare_operators()


def declare_operators():
    """Declare what torchvision registers shapes of; torch is imported here."""
    global library  # the operators exist as long as this object does
    import torch

    library = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")


sys.meta_path.insert(0, _BeforeImport())
