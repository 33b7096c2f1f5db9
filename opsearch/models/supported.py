"""Checks of a loaded model: it can be pruned, or the message names what stands against it."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from opsearch.errors import ModelError, echo
from opsearch.models.attention import FLASH
from opsearch.models.decoder import Decoder
from opsearch.models.deepstack import DEEPSTACK
from opsearch.models.devices import is_hooked
from opsearch.models.families import ModelFamily, family_for
from opsearch.models.loading import unpack

# Attribute that compressed-tensors adds to attention modules whose keys and values it quantizes.
QUANTIZED_KV = "kv_cache"


def check_supported(model: Any) -> ModelFamily:
    """Return the family of a loaded model; raise ModelError if the model cannot be pruned."""
    if not hasattr(model, "config"):
        raise _wrapped(model)
    family = located(family_for(model.config.model_type), model)
    if not hasattr(model, "lm_head"):
        raise ModelError(
            f"a {type(model).__name__} has no language-model head; load the model with "
            "AutoModelForImageTextToText"
        )
    try:
        for part in (family.trunk, family.decoder, family.vision_tower):
            model.get_submodule(part)
    except AttributeError as error:
        raise _wrapped(model) from error
    _check_attention(model.config.get_text_config(), family)
    for module in model.modules():
        if hasattr(module, QUANTIZED_KV):
            raise ModelError(
                "compressed-tensors rounds the keys and values of this model, which pruned layers "
                "would not; set kv_cache_scheme in its config.json's quantization_config to null"
            )
        if any(own.is_meta for own in module.parameters(recurse=False)) and not is_hooked(module):
            raise ModelError(
                "the model has weights on the meta device; load it fully before pruning"
            )
    unpack(model)  # layers whose weights are packed cannot be compared
    Decoder.of(model, family)
    return family


def _check_attention(text: Any, family: ModelFamily) -> None:
    """Raise ModelError unless a policy can run with the attention implementation of a decoder."""
    attention = text._attn_implementation
    if attention not in ("sdpa", "eager", FLASH):
        raise ModelError(
            f"attention implementation {echo(attention)} is not supported; load the model with "
            f"attn_implementation='sdpa', 'eager' or {FLASH!r}"
        )
    kinds = set(getattr(text, "layer_types", None) or ["full_attention"])
    causal = kinds == {"full_attention"} and not getattr(text, "sliding_window", None)
    if attention == FLASH and not (causal and family.causal):
        raise ModelError(
            f"{FLASH} computes the attention of pruned layers without a mask, but tokens of this "
            "decoder attend within a window or in both directions; load the model with "
            "attn_implementation='sdpa'"
        )


def _wrapped(model: Any) -> ModelError:
    return ModelError(
        f"a {type(model).__name__} is not itself a model of transformers; apply the policy to the "
        "model inside, e.g. pipe.model of a pipeline, model.get_base_model() of peft or "
        "model.module of torch"
    )


# Where image-text models of transformers keep their parts.
_DECODERS = ("model.language_model", "model.text_model")
_TOWERS = ("model.vision_tower", "model.visual", "model.vision_model", "model.vision_encoder")
# Arguments of decoders that a policy knows.
_KNOWN = frozenset(
    {
        "self",
        "input_ids",
        "attention_mask",
        "position_ids",
        "past_key_values",
        "inputs_embeds",
        "use_cache",
        "cache_position",
        "output_attentions",
        "output_hidden_states",
        "return_dict",
        "visual_pos_masks",
        DEEPSTACK,
        "args",
        "kwargs",
    }
)


def located(family: ModelFamily, model: Any) -> ModelFamily:
    """Return a family that is not tested with the paths of its parts in this model.

    Raises:
        ModelError: A part is nowhere to be found, or the decoder takes an argument that a policy
            does not know.
    """
    if family.tested:
        return family
    decoder, tower = (_first(model, paths) for paths in (_DECODERS, _TOWERS))
    parameters = inspect.signature(model.get_submodule(decoder).forward).parameters
    odd = [name for name in parameters if name not in _KNOWN]
    if odd:
        raise ModelError(
            f"the decoder of a {type(model).__name__} takes {', '.join(map(echo, odd))}, which a "
            "policy would get wrong; use a model of a family in docs/families.md"
        )
    return replace(family, decoder=decoder, vision_tower=tower)


def _first(model: Any, paths: Sequence[str]) -> str:
    """Return the first of some paths that leads to a module."""
    names = {name for name, _ in model.named_modules()}
    for path in paths:
        if path in names:
            return path
    raise ModelError(
        f"a {type(model).__name__} has none of {', '.join(paths)}, where its parts are looked for; "
        "use a model of a family in docs/families.md"
    )
