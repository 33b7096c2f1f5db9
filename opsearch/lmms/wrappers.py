"""lmms-eval's stock model wrappers: which one serves a family, loaded as opsearch loads models."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

from opsearch.errors import ModelError, OpsearchError
from opsearch.runtime.load import (
    check_attention,
    check_device,
    load_config,
    load_processor,
    resolve_name,
)
from opsearch.tasks.lmms import require_lmms

WRAPPERS = {
    "llava": "llava_hf",
    "llava_next": "llava_hf",
    "llava_onevision": "llava_hf",
    "qwen2_5_vl": "qwen2_5_vl",
    "internvl": "internvl_hf",
}
_TAKES_DTYPE = "llava_hf"  # the other two always load bfloat16
_READS_WITH_QWEN = "qwen2_5_vl"


def wrapper_name(model: str) -> str:
    """The wrapper of a model's family, from its config alone."""
    return WRAPPERS[load_config(model).model_type]


def load_wrapper(model: str, dtype: str, device: str, attention: str = "sdpa") -> Any:
    """The model in its stock wrapper; `.model` of it is what a policy is applied to.

    Raises ModelError when the wrapper cannot load it so, OpsearchError when a package is missing.
    """
    require_lmms()
    check_device(device, dtype, "eval --tasks")
    check_attention(attention, dtype, device)
    name = wrapper_name(model)
    if name != _TAKES_DTYPE and dtype != "bfloat16":
        raise ModelError(
            f"lmms-eval's wrapper {name} loads models in bfloat16 only, not in {dtype}; give "
            "--dtype bfloat16"
        )
    if name == _READS_WITH_QWEN and find_spec("qwen_vl_utils") is None:
        raise _missing(name, "qwen_vl_utils")  # lmms-eval would fail at the first picture
    load_processor(model)  # says what is wrong with it in one sentence
    from lmms_eval.models import get_model
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    settings = {"pretrained": resolve_name(model), "device": device, "device_map": device}
    if name == _TAKES_DTYPE:
        settings["dtype"] = dtype
    try:
        return get_model(name)(attn_implementation=attention, **settings)
    except ImportError as error:
        raise _missing(name, error.name or str(error)) from error
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ModelError(
            f"lmms-eval's wrapper {name} cannot load {model!r} ({reason}); check --model"
        ) from error


def _missing(wrapper: str, package: str) -> OpsearchError:
    return OpsearchError(
        f"lmms-eval's wrapper {wrapper} needs {package}, which is not installed; "
        "pip install 'opsearch[lmms]'"
    )
