"""Models of random weights that end where their decoder begins, to time what images take."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn

from opsearch.models.encoding import Sample, batch_inputs
from opsearch.models.families import family_for
from opsearch.models.loading import DTYPES
from opsearch.models.spec import ModelSpec
from opsearch.timing.one_layer import Part, shrink_text


class BeforeDecoder:
    """Vision tower, projector, and merging of image features and text.

    Args:
        config: Config of the model.
        model: Its dtype, device and attention implementation.
    """

    def __init__(self, config: Any, model: ModelSpec) -> None:
        from transformers import AutoModelForImageTextToText

        small = deepcopy(config)
        text = small.get_text_config()
        shrink_text(text, 1)
        with torch.device(model.device):
            whole = AutoModelForImageTextToText.from_config(
                small, dtype=DTYPES[model.dtype], attn_implementation=model.attention
            ).eval()
        whole.set_input_embeddings(_NoEmbeddings(text.hidden_size, whole.dtype))
        family = family_for(config.model_type)
        whole.get_submodule(family.decoder).forward = _given
        self.trunk, self.device = whole.get_submodule(family.trunk), model.device

    def part(self, sample: Sample) -> Part:
        """Return all that comes before the decoder for a sample."""
        inputs = batch_inputs([sample], self.device)

        def run() -> None:
            self.trunk(**inputs, use_cache=False)

        return run


class _NoEmbeddings(nn.Module):
    """Embeddings that are all zeros."""

    def __init__(self, width: int, dtype: torch.dtype) -> None:
        super().__init__()
        self._width, self._dtype = width, dtype

    def forward(self, ids: Tensor) -> Tensor:
        return torch.zeros(*ids.shape, self._width, dtype=self._dtype, device=ids.device)


def _given(*, inputs_embeds: Tensor, **others: Any) -> Any:
    """Take the place of a decoder's forward, and return its inputs."""
    from transformers.modeling_outputs import BaseModelOutputWithPast

    return BaseModelOutputWithPast(last_hidden_state=inputs_embeds)
