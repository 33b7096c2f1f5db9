"""Loading of models and processors by name: `demo`, a local folder, or a hub id."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import torch

from opsearch.errors import PATH, ModelError, echo
from opsearch.models.attention import FLASH
from opsearch.models.families import family_for
from opsearch.models.placement import AUTO, ITEMSIZE, check_device_name
from opsearch.models.pretrained import load_part, load_tensors

ATTENTIONS = ("sdpa", "eager", FLASH)
DTYPES: dict[str, torch.dtype] = {name: getattr(torch, name) for name in ITEMSIZE}


def unpack(model: Any) -> None:
    """Unpack the weights of a compressed-tensors model; leave other models unchanged.

    The first forward would be too late: generate() runs the vision tower before it, and weights and
    accelerate's hooks must not change inside a `with` block.
    """
    if not hasattr(model, "ct_decompress_hook"):
        return
    from compressed_tensors.compressors import ModelCompressor

    ModelCompressor.from_pretrained_model(model).decompress_model(model)


def load_config(name: str) -> Any:
    """Load the config only; raise ModelError if it is missing or its family is not supported."""
    from transformers import AutoConfig

    config = load_part("model", AutoConfig, name)
    family_for(config.model_type)
    return config


def load_processor(name: str) -> Any:
    """Load the processor: tokenizer, image processor and chat template."""
    try:
        from transformers import AutoProcessor

        processor = load_part("processor", AutoProcessor, name)
    except (ModelError, ImportError) as error:
        cause = error.__cause__ or error
        if "torchvision" in f"{cause} {cause.__cause__}".lower():
            raise ModelError(
                f"the processor of {echo(name, PATH)} needs torchvision, which is missing or does "
                f"not fit; install torchvision matching your torch {torch.__version__}"
            ) from error
        raise
    if not getattr(processor, "chat_template", None):
        raise ModelError(
            f"the processor of {echo(name, PATH)} has no chat template, so prompts cannot be "
            "written; add chat_template.jinja to its folder"
        )
    return processor


def check_device(device: str, dtype: str, feature: str | None = None) -> None:
    """Raise ModelError unless this machine has the device and the dtype is known.

    Args:
        device: Device of torch, or `auto`.
        dtype: A key of DTYPES.
        feature: Feature that supports only one device, as named in the error.
    """
    if dtype not in DTYPES:
        raise ModelError(f"dtype {echo(dtype)} is unknown; use {', '.join(DTYPES)}")
    if device == AUTO:
        if feature is not None:
            raise ModelError(
                f"{feature} takes a model on one device, and --device {AUTO} may spread it over "
                "several; name one, e.g. --device cuda"
            )
        if find_spec("accelerate") is None:
            raise ModelError(
                f"--device {AUTO} spreads a model by accelerate, which is not installed; "
                "pip install accelerate, or name one device, e.g. --device cuda"
            )
        return
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).strip().splitlines()[0]
        check_device_name(device)
        raise ModelError(
            f"device {echo(device)} cannot be used ({reason}); use --device cpu"
        ) from error
    if torch.device(device).type == "meta":
        raise ModelError(
            f"device {echo(device)} has shapes but no numbers, so that nothing can be measured or "
            "answered there; use --device cpu, where --dry-run plans a run without weights"
        )


def check_attention(attention: str, dtype: str, device: str) -> None:
    """Raise ModelError unless this attention implementation runs with this dtype and device."""
    if attention not in ATTENTIONS:
        raise ModelError(f"attention {echo(attention)} is unknown; use {', '.join(ATTENTIONS)}")
    if attention != FLASH:
        return
    if dtype == "float32":
        raise ModelError(
            f"--attention {FLASH} computes in half precision and not in {dtype}; give --dtype "
            "bfloat16 or float16, or --attention sdpa"
        )
    if device.partition(":")[0] not in ("cuda", AUTO):
        raise ModelError(
            f"--attention {FLASH} runs on CUDA devices and not on {echo(device)}; give --device "
            "cuda, or --attention sdpa"
        )
    from transformers.utils.import_utils import is_flash_attn_2_available

    if not is_flash_attn_2_available():
        raise ModelError(
            f"--attention {FLASH} needs a GPU and flash_attn 2.3.3 or later, which is not "
            "installed or not compatible; pip install flash-attn, or give --attention sdpa"
        )


def load_weights(
    name: str, dtype: str = "float32", device: str = "cpu", attention: str = "sdpa"
) -> Any:
    """Load the model with its weights, in evaluation mode.

    Args:
        name: `demo`, a local folder, or a hub id.
        dtype: A key of DTYPES.
        device: Device of torch; `auto` spreads the model evenly over the GPUs and keeps the rest
            in CPU memory.
        attention: One of ATTENTIONS.
    """
    from transformers import AutoModelForImageTextToText
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    model = load_tensors(
        AutoModelForImageTextToText,
        name,
        dtype=DTYPES[dtype],
        attn_implementation=attention,
        device_map=AUTO if device == AUTO else None,
    )
    model = model.eval() if device == AUTO else model.eval().to(device)
    unpack(model)
    return model
