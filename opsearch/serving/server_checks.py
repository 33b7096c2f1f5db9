"""Checks and settings of a server, before it loads weights."""

from __future__ import annotations

from typing import Any

from vllm.config import CompilationMode, CUDAGraphMode
from vllm.logger import init_logger
from vllm.model_executor.model_loader import get_model_architecture
from vllm.model_executor.models.config import VerifyAndUpdateConfig

from opsearch.errors import OpsearchError, PolicyError, echo
from opsearch.models.families import family_for
from opsearch.rankers.base import PROMPT_NEEDS
from opsearch.serving.served_policy import ServedPolicy, policy_of

logger = init_logger(f"vllm.{__name__}")  # below the logger that vLLM sets up


class ServedConfig(VerifyAndUpdateConfig):
    """What vLLM asks when it has read the settings of a server."""

    @staticmethod
    def verify_and_update_config(vllm_config: Any) -> None:
        """Refuse what cannot be served exactly, and set what a policy needs.

        Raises:
            OpsearchError: The policy does not fit the model or the settings of the server.
        """
        model_config = vllm_config.model_config
        try:
            served = policy_of(model_config.hf_config)
            if served is None:
                return
            _check_policy(served, model_config)
        except PolicyError as error:  # a ValueError, which pydantic would rephrase
            raise OpsearchError(*error.args) from None
        _check_settings(vllm_config)
        model_config.enforce_eager = True
        vllm_config.compilation_config.mode = CompilationMode.NONE
        vllm_config.compilation_config.cudagraph_mode = CUDAGraphMode.NONE
        vllm_config.scheduler_config.scheduler_cls = "opsearch.serving.scheduler.make_scheduler"
        policy = served.policy
        logger.info("opsearch: serving policy %s (%s)", policy.name, policy.digest()[:12])


def _check_policy(served: ServedPolicy, model_config: Any) -> None:
    policy, config = served.policy, model_config.hf_config
    layers = config.get_text_config().num_hidden_layers
    if policy.num_layers != layers:
        raise PolicyError(
            f"the policy has {policy.num_layers} layers, but the model's decoder has {layers}; "
            "serve a policy that was searched for this model"
        )
    if policy.model_type not in (None, config.model_type):
        raise PolicyError(
            f"the policy was searched for family {echo(policy.model_type)}, but the model is of "
            f"family {echo(config.model_type)}; serve a policy that was searched for this model"
        )
    family_for(config.model_type).check_needs(config, served.needs)
    model, _ = get_model_architecture(model_config)
    if missing := served.needs - PROMPT_NEEDS - model.captured:
        raise PolicyError(
            f"the policy's ranker reads {', '.join(sorted(missing))} of the vision tower, which "
            f"is not captured in vLLM's {model.__name__}; serve a policy with a ranker that reads "
            "embeddings, e.g. divprune"
        )


def _check_settings(vllm_config: Any) -> None:
    """Raise OpsearchError if the server is set to something that a policy does not work with."""
    parallel, cache = vllm_config.parallel_config, vllm_config.cache_config
    refused = {
        "speculative decoding": vllm_config.speculative_config is not None,
        "LoRA": vllm_config.lora_config is not None,
        "quantized weights": vllm_config.model_config.quantization is not None,
        "pipeline parallelism": parallel.pipeline_parallel_size > 1,
        "context parallelism": parallel.decode_context_parallel_size > 1
        or parallel.prefill_context_parallel_size > 1,
        "a KV connector": vllm_config.kv_transfer_config is not None,
        "another scheduler class": vllm_config.scheduler_config.scheduler_cls is not None,
        "KV sharing in prefills": cache.kv_sharing_fast_prefill,
        "the V2 model runner": vllm_config.use_v2_model_runner,
    }
    for name in (name for name, used in refused.items() if used):
        hint = "set VLLM_USE_V2_MODEL_RUNNER=0" if "V2" in name else "leave it out"
        raise OpsearchError(f"a policy cannot be served with {name}; {hint}")
