"""What a ranker reads in the vision tower, as further columns of the features of each visual token.

vLLM keeps the features of an image until all its rows are computed, and for other requests with
the same image, so what is captured with them lives as long. A float32 value takes one column of
float32 features and two of 16-bit ones, bit by bit.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor
from vllm.distributed import get_tensor_model_parallel_world_size, tensor_model_parallel_all_reduce

from opsearch.models.vision import cls_attention

# In the order of their columns. "tiles" is known without the tower.
CAPTURED = ("cls_attention", "vision_features")


class TowerCapture:
    """Hooks on a tower whose patches are a visual token each, as LLaVA-1.5's.

    Args:
        model: vLLM's model.
        needs: Names of ranker inputs.

    Attributes:
        names: Those in CAPTURED.
    """

    def __init__(self, model: Any, needs: Collection[str]) -> None:
        self.names = [name for name in CAPTURED if name in needs]
        self._cls: Tensor | None = None
        self._read = int(model.config.vision_config.hidden_size)  # columns of "vision_features"
        if "cls_attention" in self.names:
            # The tower has no layers behind the one whose output the projector reads.
            attention = model.vision_tower.vision_model.encoder.layers[-1].self_attn
            attention.qkv_proj.register_forward_hook(self._on_projections(attention))
        if self.names:
            model.multi_modal_projector.register_forward_hook(self._on_projector)

    def _on_projections(self, attention: Any) -> Any:
        def after(module: Any, args: Any, output: Any) -> None:
            queries, keys, _ = output[0].chunk(3, dim=-1)
            heads = attention.num_heads_per_partition
            scores = cls_attention(queries[:, :1], keys, heads, attention.scale)
            ranks = get_tensor_model_parallel_world_size()
            self._cls = tensor_model_parallel_all_reduce(scores) / ranks if ranks > 1 else scores

        return after

    def _on_projector(self, module: Any, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        """Append the columns to the features [..., D]."""
        columns = []
        if self._cls is not None:
            scores = self._cls.reshape(*output.shape[:-1], 1)
            columns.append(scores.contiguous().view(output.dtype))
            self._cls = None
        if "vision_features" in self.names:
            columns.append(args[0].to(output.dtype))
        return torch.cat([output, *columns], -1)

    def split(self, features: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return features [n, D] without the columns [n, D + columns], and what these hold."""
        scores = 4 // features.element_size() if "cls_attention" in self.names else 0
        read = self._read if "vision_features" in self.names else 0
        width = features.shape[-1] - scores - read
        inputs, columns, inner = features.split([width, scores, read], -1)
        captured = dict[str, Tensor]()
        if scores:
            captured["cls_attention"] = columns.contiguous().view(torch.float32)[:, 0]
        if read:
            captured["vision_features"] = inner
        return inputs, captured
