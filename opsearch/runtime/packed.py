"""Unpacking of compressed-tensors weights, which the stock model delays to its first forward."""

from __future__ import annotations

from typing import Any


def unpack(model: Any) -> None:
    """Unpack the weights of a compressed-tensors model; leave other models unchanged.

    The first forward would be too late: generate() runs the vision tower before it, and weights and
    accelerate's hooks must not change inside a `with` block.
    """
    if not hasattr(model, "ct_decompress_hook"):
        return
    from compressed_tensors.compressors import ModelCompressor

    ModelCompressor.from_pretrained_model(model).decompress_model(model)
