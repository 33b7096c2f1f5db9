"""Plug-in for lmms-eval: `lmms-eval --model opsearch --model_args policy=RUN,...`."""

from __future__ import annotations

from typing import Any


def manifest() -> Any:
    """Return the model's entry for lmms-eval's entry-point group lmms_eval.models."""
    from lmms_eval.models.registry_v2 import ModelManifest

    return ModelManifest(
        model_id="opsearch", chat_class_path="opsearch.evaluation.lmms.model.PrunedModel"
    )
