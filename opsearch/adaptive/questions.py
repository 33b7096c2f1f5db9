"""Features of the questions of samples, as a selector reads them during a prefill."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from opsearch.models.devices import device_of_inputs
from opsearch.models.encoding import Sample, batch_inputs, batches
from opsearch.models.pruned.ranking import make_prompt
from opsearch.models.supported import check_supported

_MAX_TOKENS = 65536  # of a batch, of which only embeddings are looked up


@torch.no_grad()
def question_features(model: Any, samples: Sequence[Sample]) -> NDArray[np.float32]:
    """Return the features of each sample's question, float32[S, D].

    Args:
        model: The model, of whose decoder only the embeddings are read.
        samples: S samples.
    """
    family, embed = check_supported(model), model.get_input_embeddings()
    rows: dict[str, NDArray[np.float32]] = {}
    for batch in batches(samples, _MAX_TOKENS):
        ids = batch_inputs(batch, device_of_inputs(model))["input_ids"]
        prompt = make_prompt(model, family, ids, None)
        # Placeholders of images need not be in the vocabulary of the embeddings.
        prompt.embeds = embed(torch.where(prompt.visual, 0, ids))
        found = prompt.question_direction().cpu().numpy()
        rows |= {sample.digest: row for sample, row in zip(batch, found, strict=True)}
    width: int = embed.weight.shape[-1]
    return np.array([rows[sample.digest] for sample in samples], np.float32).reshape(-1, width)
