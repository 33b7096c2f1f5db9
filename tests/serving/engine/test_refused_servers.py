"""Servers that a policy cannot be served by are refused before weights are loaded."""

from dataclasses import replace
from fractions import Fraction

import pytest
import vllm
from vllm import EngineArgs
from vllm.model_executor.models.config import MODELS_CONFIG_MAP

from opsearch import RankerSpec, builders
from opsearch.errors import OpsearchError, UnknownNameError
from opsearch.policy.images import ImageSetting
from opsearch.serving import registration
from tests.serving.engine.engines import SETTINGS
from tests.serving.engine.policies import LAYERS, STAYING
from tests.support.messages import refuses
from tests.support.served import EMBEDDED

FITTING = STAYING["tokens"]
HALF = ImageSetting(Fraction(1, 2), (("size.longest_edge", 100),))


def start(policy, folder, **settings):
    """Return vLLM's settings of a server, which checks them."""
    policy.save_pretrained(folder)
    return configured(folder, **settings)


def configured(folder, **settings):
    overrides = {"opsearch_policy": str(folder)}
    arguments = EngineArgs(str(EMBEDDED), hf_overrides=overrides, **{**SETTINGS, **settings})
    return arguments.create_engine_config()


@pytest.mark.parametrize(
    ("policy", "parts"),
    [
        (builders.tokens(LAYERS - 1, "1/4", RankerSpec("uniform")), [11, 12, "for this model"]),
        (replace(FITTING, model_type="qwen2_vl"), ["'qwen2_vl'", "'llava'", "for this model"]),
        (replace(FITTING, images=HALF), ["1/2", "size.longest_edge=100", "--images"]),
        (builders.fastv(LAYERS, 2, "1/2"), ["fastv", "inside the decoder", "divprune"]),
    ],
    ids=["layers", "family", "image setting", "ranker inside the decoder"],
)
def test_policies_that_do_not_fit_are_refused(policy, parts, tmp_path):
    with refuses(OpsearchError, *parts) as refused:
        start(policy, tmp_path)
    assert refused.type is OpsearchError  # pydantic rephrases a ValueError


def test_an_unknown_ranker_is_refused(tmp_path):
    with refuses(UnknownNameError, "'divprone'", "'divprune'"):
        start(builders.tokens(LAYERS, "1/4", RankerSpec("divprone")), tmp_path)


def test_a_folder_without_a_policy_is_refused(tmp_path):
    with refuses(OpsearchError, tmp_path / "none", "policy_config.json"):
        configured(tmp_path / "none")


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"enable_lora": True}, "LoRA"),
        ({"quantization": "fp8", "dtype": "bfloat16"}, "quantized weights"),
        ({"spec_method": "ngram", "spec_tokens": 2}, "speculative decoding"),
        ({"pipeline_parallel_size": 2}, "pipeline parallelism"),
        (
            {"kv_transfer_config": {"kv_connector": "ExampleConnector", "kv_role": "kv_both"}},
            "a KV connector",
        ),
        ({"scheduler_cls": "vllm.v1.core.sched.scheduler.Scheduler"}, "another scheduler class"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_settings_that_a_policy_does_not_work_with_are_refused(settings, named, tmp_path):
    with refuses(OpsearchError, named, "leave it out"):
        start(FITTING, tmp_path, **settings)


def test_the_runner_of_gpus_is_refused(monkeypatch, tmp_path):
    monkeypatch.setenv("VLLM_USE_V2_MODEL_RUNNER", "1")
    with refuses(OpsearchError, "the V2 model runner", "VLLM_USE_V2_MODEL_RUNNER=0"):
        start(FITTING, tmp_path)


def test_other_releases_serve_no_policy_and_are_left_alone_without_one(monkeypatch, tmp_path):
    monkeypatch.setattr(vllm, "__version__", "0.33.1")
    for architecture in registration.ARCHITECTURES:
        monkeypatch.delitem(MODELS_CONFIG_MAP, architecture)
    registration.register()
    try:
        with refuses(OpsearchError, "0.33.1", "vllm==0.32"):
            start(FITTING, tmp_path)
        EngineArgs(str(EMBEDDED), **SETTINGS).create_engine_config()
    finally:
        for architecture in registration.ARCHITECTURES:
            del MODELS_CONFIG_MAP[architecture]
