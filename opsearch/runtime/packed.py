"""Weights of compressed-tensors, which stay packed until the stock model's first forward."""

from __future__ import annotations

from typing import Any


def unpack(model: Any) -> None:
    """Unpack the weights now; a model of any other kind stays as it is.

    Left to the first forward, that would be too late for generate(), which runs the vision tower
    before, and would change the model's weights and accelerate's hooks inside of a `with` block.
    """
    if not hasattr(model, "ct_decompress_hook"):
        return
    from compressed_tensors.compressors import ModelCompressor

    ModelCompressor.from_pretrained_model(model).decompress_model(model)
