"""Features of samples, as a selector reads them during a prefill."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from opsearch.adaptive.policy_set import PolicySet
from opsearch.models.decoder import Decoder
from opsearch.models.devices import device_of_inputs
from opsearch.models.encoding import Sample, batch_inputs, batches
from opsearch.models.pruned.ranking import make_prompt
from opsearch.models.supported import check_supported
from opsearch.rankers.base import Features

_MAX_TOKENS = 4096  # of a batch


class _Embedded(Exception):  # noqa: N818 (no error: it ends a forward early)
    """Ends a forward of the model where its decoder would begin."""

    def __init__(self, embeds: Tensor) -> None:
        super().__init__()
        self.embeds = embeds


@torch.no_grad()
def read_features(model: Any, samples: Sequence[Sample], selector: Features) -> NDArray[np.float32]:
    """Return the features of each sample, float32[S, F].

    Vision tower and embeddings run as in a prefill, since some models put other embeddings in the
    place of a token's own; the decoder does not.

    Args:
        model: The model.
        samples: S samples.
        selector: Makes the features.

    Raises:
        ModelError: The model cannot provide what the selector reads.
    """
    family = check_supported(model)
    family.check_needs(model.config, selector.needs)
    rows: dict[str, NDArray[np.float32]] = {}
    for batch in batches(samples, _MAX_TOKENS):
        inputs = batch_inputs(batch, device_of_inputs(model))
        prompt = make_prompt(model, family, inputs["input_ids"], None)
        prompt.embeds = _embeddings(model, Decoder.of(model, family), inputs)
        prompt = prompt.to(prompt.embeds.device)
        found = selector.features(prompt).cpu().numpy()
        rows |= {sample.digest: row for sample, row in zip(batch, found, strict=True)}
    return np.array([rows[sample.digest] for sample in samples], np.float32)


def choose(policies: PolicySet, model: Any, samples: Sequence[Sample]) -> list[int]:
    """Return the index of the policy that each sample runs under a set."""
    features = read_features(model, samples, policies.selector.features)
    chosen: list[int] = policies.selector.scores(features).argmax(axis=1).tolist()
    return chosen


def _embeddings(model: Any, decoder: Decoder, inputs: dict[str, Any]) -> Tensor:
    """Return the embeddings [B, S, D] that would enter the decoder."""

    def stop(module: Any, args: Any, kwargs: dict[str, Any]) -> None:
        raise _Embedded(kwargs["inputs_embeds"])

    handle = decoder.module.register_forward_pre_hook(stop, with_kwargs=True)
    try:
        model(**inputs, use_cache=False, logits_to_keep=1)
    except _Embedded as reached:
        return reached.embeds
    finally:
        handle.remove()
    raise AssertionError("the model ran without its decoder")
