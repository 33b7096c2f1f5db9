"""Stock model wrappers of lmms-eval, by family."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

from opsearch.data.lmms import require_lmms
from opsearch.errors import PATH, ModelError, OpsearchError, echo, ran_out_of_memory
from opsearch.models.loading import load_config
from opsearch.models.pretrained import loading_failure, resolve_name
from opsearch.models.spec import ModelSpec

WRAPPERS = {
    "llava": "llava_hf",
    "llava_next": "llava_hf",
    "llava_onevision": "llava_hf",
    "qwen2_5_vl": "qwen2_5_vl",
    "internvl": "internvl_hf",
}
_TAKES_DTYPE = "llava_hf"  # the other two always load bfloat16
_NEEDS_QWEN_UTILS = "qwen2_5_vl"


def wrapper_name(model: str) -> str:
    """Return the wrapper of a model's family, from its config alone.

    Raises:
        ModelError: lmms-eval has no wrapper for the family.
    """
    family = load_config(model).model_type
    if family not in WRAPPERS:
        raise ModelError(
            f"no wrapper of lmms-eval is known for model {echo(model, PATH)} of family "
            f"{echo(family)}, only for {', '.join(WRAPPERS)}; use `opsearch eval` with --data FILE "
            "instead of --tasks"
        )
    return WRAPPERS[family]


def load_wrapper(model: ModelSpec) -> Any:
    """Load the model in its stock wrapper; policies apply to its attribute `model`.

    Raises:
        ModelError: The wrapper cannot load the model with these settings.
        OpsearchError: A package is missing.
    """
    require_lmms()
    model.check("eval --tasks")
    name = wrapper_name(model.name)
    if name != _TAKES_DTYPE and model.dtype != "bfloat16":
        raise ModelError(
            f"lmms-eval's wrapper {name} loads models in bfloat16 only, not in {model.dtype}; give "
            "--dtype bfloat16"
        )
    if name == _NEEDS_QWEN_UTILS and find_spec("qwen_vl_utils") is None:
        raise _missing(name, "qwen_vl_utils")  # lmms-eval would fail at the first image
    model.load_processor()  # for its error messages of one sentence
    from lmms_eval.models import get_model
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    settings = {"pretrained": resolve_name(model.name), "attn_implementation": model.attention}
    settings |= {"device": model.device, "device_map": model.device}
    if name == _TAKES_DTYPE:
        settings["dtype"] = model.dtype
    try:
        return get_model(name)(**settings)
    except ImportError as error:
        raise _missing(name, error.name or str(error)) from error
    except Exception as error:  # damaged files raise anything
        if ran_out_of_memory(error):
            raise
        reason = loading_failure("model", model.name, error)
        raise ModelError(f"lmms-eval's wrapper {name} failed: {reason}") from error


def wrapped_processor(wrapper: Any) -> Any:
    """Return the processor that a wrapper made, under whatever name it keeps it."""
    from transformers import ProcessorMixin

    return next(each for each in vars(wrapper).values() if isinstance(each, ProcessorMixin))


def _missing(wrapper: str, package: str) -> OpsearchError:
    return OpsearchError(
        f"lmms-eval's wrapper {wrapper} needs {package}, which is not installed; "
        "pip install 'opsearch[lmms]'"
    )
