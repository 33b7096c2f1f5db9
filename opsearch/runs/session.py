"""Opens the store of a run for what its measurements depend on."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any


from opsearch.measure.storage.records import StoredSample
from opsearch.measure.storage.store import ENGINE_VERSION, Store
from opsearch.models.encoding import Sample, processor_digest
from opsearch.models.loading import fingerprint
from opsearch.runs.prepare import Prepared


MAX_NEW_TOKENS = 16
"""Of an answer to a held-out question."""


def run_store(path: Path, prepared: Prepared, model: Any) -> Store:
    """The store at `path` in the context of this run."""
    config = prepared.config
    facts = {
        "model": fingerprint(model),
        "dtype": config.dtype,
        "attention": config.attention,
        "processor": processor_digest(prepared.processor),
        "positions": config.positions,
        "generation": _generation(model),
        "engine": ENGINE_VERSION,
        # For solving again without the model.
        "model_type": prepared.model_type,
        "shape": dataclasses.asdict(prepared.shape),
    }
    return Store(path, facts)


def _generation(model: Any) -> dict[str, Any]:
    """What answers depend on besides the weights."""
    settings = model.generation_config.to_diff_dict()
    settings.pop("transformers_version", None)
    return {"settings": repr(sorted(settings.items())), "tokens": MAX_NEW_TOKENS}


def stored_samples(samples: list[Sample]) -> list[StoredSample]:
    """Samples as the store keeps them."""
    return [
        StoredSample(s.digest, s.item.id, s.item.family, s.n_visual, s.n_other) for s in samples
    ]
