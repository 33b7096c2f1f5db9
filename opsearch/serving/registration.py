"""Registration of the models that can be served under a policy."""

from __future__ import annotations

from typing import Any

import vllm
from vllm.model_executor.models.config import MODELS_CONFIG_MAP, VerifyAndUpdateConfig

from opsearch.serving.served_policy import KEY
from opsearch.serving.supported import ARCHITECTURES, check_release, is_supported


def register() -> None:
    """Register the models; vLLM calls this in each of its processes.

    Our subclasses take the place of vLLM's models, and act as these do without a policy.
    """
    if not is_supported(vllm.__version__):
        _refuse_policies()
        return
    from opsearch.serving.server_checks import ServedConfig  # it may not import in other releases

    for architecture, name in ARCHITECTURES.items():
        vllm.ModelRegistry.register_model(architecture, f"opsearch.serving.families:{name}")
        MODELS_CONFIG_MAP[architecture] = ServedConfig


class _OtherRelease(VerifyAndUpdateConfig):
    """The settings of a server of another release."""

    @staticmethod
    def verify_and_update_config(vllm_config: Any) -> None:
        """Refuse a policy."""
        if hasattr(vllm_config.model_config.hf_config, KEY):
            check_release(vllm.__version__)


def _refuse_policies() -> None:
    """Leave vLLM as it is, and refuse servers that name a policy."""
    for architecture in ARCHITECTURES:
        MODELS_CONFIG_MAP.setdefault(architecture, _OtherRelease)
