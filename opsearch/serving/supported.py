"""Releases and models of vLLM that policies are served with; importing this needs no vLLM."""

from __future__ import annotations

from typing import Any

from opsearch.errors import ModelError, OpsearchError, shortened

RELEASE = "0.32"  # the minor release whose internals the plug-in is written for
ARCHITECTURES = {
    "LlavaForConditionalGeneration": "PrunedLlava",
    "LlavaNextForConditionalGeneration": "PrunedLlavaNext",
    "LlavaOnevisionForConditionalGeneration": "PrunedLlavaOnevision",
    "Qwen2_5_VLForConditionalGeneration": "PrunedQwen2_5VL",
    "Qwen3VLForConditionalGeneration": "PrunedQwen3VL",
    "InternVLForConditionalGeneration": "PrunedInternVL",
}


def is_supported(release: str) -> bool:
    """Return whether policies are served with a release of vLLM."""
    return release.split(".")[:2] == RELEASE.split(".")


def check_release(release: str) -> None:
    """Raise OpsearchError for a release of vLLM that policies are not served with."""
    if not is_supported(release):
        raise OpsearchError(
            f"opsearch serves policies with vLLM {RELEASE}, but vLLM {release} is installed; "
            f"install vllm=={RELEASE}.*"
        )


def check_architecture(config: Any) -> None:
    """Raise ModelError for a model that vLLM would serve without looking at the policy.

    Args:
        config: The model's config.
    """
    named = config.architectures or ["none"]
    if not ARCHITECTURES.keys() & set(named):
        known = ", ".join(name.removesuffix("ForConditionalGeneration") for name in ARCHITECTURES)
        raise ModelError(
            f"policies are served for models of {known}, but this is a {shortened(named[0])}; "
            "apply the policy in transformers, with policy.install(model)"
        )
