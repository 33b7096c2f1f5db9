"""Where a model family keeps what pruning needs: the only place that knows families by name.

A further family is one more entry of ADAPTERS. All other code reaches a model through an adapter.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from opsearch.demo import MODEL_DIR
from opsearch.errors import ModelError
from opsearch.policy import RankerSpec
from opsearch.rankers import RANKERS, make_ranker
from opsearch.rankers.look import DECODER_ATTENTION
from opsearch.rankers.prompt import OF_THE_PROMPT
from opsearch.runtime.clip import CLIP_PATCHES, CLIP_QUESTION, not_of_clip, unusable_clip
from opsearch.runtime.cls_attention import Handle, Keep, unusable_cls
from opsearch.runtime.masks import FLASH
from opsearch.runtime.places import is_hooked
from opsearch.runtime.vision import (
    OF_THE_TOWER,
    Capture,
    capture_merged_patches,
    capture_packed_patches,
    capture_patches,
)


@dataclass(frozen=True)
class Adapter:
    """A family's layout, by attribute paths from the model with its head.

    trunk: merges image features and text, calls `decoder`; decoder: the text model with `.layers`;
    vision_tower: the module whose output the image features are made of.
    visual_tokens: config attributes with the ids of the placeholders of visual tokens.
    ranker: the default one of the family; tower: captures what rankers read of a vision tower with
    a [CLS], None for another one.
    positions_from: input that positions are computed from besides input_ids, None without one.
    """

    family: str
    ranker: RankerSpec
    tower: Capture | None = None
    vision_tower: str = "model.vision_tower"
    trunk: str = "model"
    decoder: str = "model.language_model"
    visual_tokens: tuple[str, ...] = ("image_token_id",)
    positions_from: str | None = None

    def visual_positions(self, config: Any, input_ids: Tensor) -> Tensor:
        """Positions that hold an image's or a video's tokens, bool[B, S]."""
        found = [torch.eq(input_ids, getattr(config, token)) for token in self.visual_tokens]
        return torch.stack(found).any(0)

    def refusal(self, config: Any, need: str) -> str | None:
        """Why a model of this config cannot give what a ranker reads, None where it can."""
        if need == "question_embeddings":
            return _no_question(config)
        if need == DECODER_ATTENTION:
            decoder = config.get_text_config().model_type
            return None if decoder in DECODERS else f"decoders of type {decoder!r} are not read"
        if need in OF_THE_PROMPT:
            return None
        if self.tower is None:
            return "its vision tower has no [CLS] and is not read"
        for kind in (CLIP_PATCHES, CLIP_QUESTION):
            if need.startswith(kind):
                return unusable_clip(need.removeprefix(kind), config)
        if need not in OF_THE_TOWER:
            return "no adapter captures it"
        return unusable_cls(config)

    def check_needs(self, config: Any, needs: Iterable[str]) -> None:
        """Raise ModelError naming other rankers unless a model of this config gives all this."""
        for need in sorted(needs):
            reason = self.refusal(config, need)
            if reason is not None:
                raise ModelError(
                    f"family {self.family!r} cannot provide {need!r}, which the ranker reads: "
                    f"{reason}; choose another --ranker, e.g. {', '.join(self.rankers(config))}"
                )

    def refusals(self, config: Any) -> dict[str, str]:
        """The built-in rankers that a model of this config cannot use as they are, and why."""
        found = {}
        for name in RANKERS:
            needs = sorted(make_ranker(RankerSpec(name)).needs)
            reasons = [reason for need in needs if (reason := self.refusal(config, need))]
            if reasons:
                found[name] = reasons[0]
        return found

    def rankers(self, config: Any) -> list[str]:
        """The built-in rankers that a model of this config can use as they are."""
        refused = self.refusals(config)
        return [name for name in RANKERS if name not in refused]

    def capture(self, model: Any, needs: Collection[str], store: Keep) -> list[Handle]:
        """Hand what rankers need to `store` in every pass, until the handles are removed."""
        self.check_needs(model.config, needs)
        if self.tower is None or OF_THE_PROMPT.issuperset(needs):
            return []
        return self.tower(model, needs, store)


def _no_question(config: Any) -> str | None:
    """Why a question's token embeddings say nothing of pictures; None on the embedded model."""
    if Path(config.name_or_path).resolve() == MODEL_DIR.resolve():
        return None
    stand_in = "only on the embedded model do its token embeddings stand in for CLIP's texts"
    return not_of_clip(config) or f"{stand_in}: give cdpruner(clip=FOLDER)"


# Layers of two norms, attention and MLP, each added to the residual stream as it is. A family can
# hold any text model; layers of Gemma 2 or Granite add up differently and would be silently wrong.
DECODERS = frozenset({"llama", "mistral", "qwen2", "qwen2_5_vl_text", "qwen3"})

# What compressed-tensors adds to attention whose keys and values it rounds.
KEYS_AND_VALUES = "kv_cache"

_UNIFORM, _CLS = RankerSpec("uniform"), RankerSpec("cls")
_IMAGE_AND_VIDEO = ("image_token_id", "video_token_id")

ADAPTERS: dict[str, Adapter] = {
    "llava": Adapter("llava", _CLS, capture_patches),
    "llava_next": Adapter("llava_next", _CLS, capture_packed_patches),
    # SigLIP has no [CLS].
    "llava_onevision": Adapter("llava_onevision", _UNIFORM, visual_tokens=_IMAGE_AND_VIDEO),
    # InternVL's decoder sees the patches of the last layer, where nothing reads [CLS] any more:
    # nothing kept its attention meaningful in training, so it is there but not the default.
    "internvl": Adapter("internvl", _UNIFORM, capture_merged_patches),
    "qwen2_5_vl": Adapter(
        "qwen2_5_vl",
        _UNIFORM,
        vision_tower="model.visual",
        visual_tokens=_IMAGE_AND_VIDEO,
        positions_from="mm_token_type_ids",
    ),
}


def adapter_for(model_type: str) -> Adapter:
    """The adapter of a family; ModelError lists the supported ones."""
    if model_type not in ADAPTERS:
        raise ModelError(
            f"models of type {model_type!r} are not supported; use one of type "
            f"{', '.join(sorted(ADAPTERS))}"
        )
    return ADAPTERS[model_type]


def check_supported(model: Any) -> Adapter:
    """The adapter of a loaded model; ModelError says what about it cannot be pruned."""
    if not hasattr(model, "config"):
        raise _wrapped(model)
    adapter = adapter_for(model.config.model_type)
    if not hasattr(model, "lm_head"):
        raise ModelError(
            f"a {type(model).__name__} has no language-model head; load the model with "
            "AutoModelForImageTextToText"
        )
    try:
        for part in (adapter.trunk, adapter.decoder, adapter.vision_tower):
            model.get_submodule(part)
    except AttributeError as error:
        raise _wrapped(model) from error
    text = model.config.get_text_config()
    if text.model_type not in DECODERS:
        raise ModelError(
            f"decoders of type {text.model_type!r} are not supported; use a model with one of type "
            f"{', '.join(sorted(DECODERS))}"
        )
    attention = text._attn_implementation
    if attention not in ("sdpa", "eager", FLASH):
        raise ModelError(
            f"attention implementation {attention!r} is not supported; load the model with "
            f"attn_implementation='sdpa', 'eager' or {FLASH!r}"
        )
    kinds = set(getattr(text, "layer_types", None) or ["full_attention"])
    if kinds != {"full_attention"} or getattr(text, "sliding_window", None):
        raise ModelError(
            f"the decoder uses attention of types {sorted(kinds)} with a window of "
            f"{getattr(text, 'sliding_window', None)} tokens; only full_attention can be pruned"
        )
    for module in model.modules():
        if hasattr(module, KEYS_AND_VALUES):
            raise ModelError(
                "compressed-tensors rounds the keys and values of this model, which pruned layers "
                "would not; set kv_cache_scheme in its config.json's quantization_config to null"
            )
        if any(own.is_meta for own in module.parameters(recurse=False)) and not is_hooked(module):
            raise ModelError(
                "the model has weights on the meta device; load it fully before pruning"
            )
    return adapter


def _wrapped(model: Any) -> ModelError:
    return ModelError(
        f"a {type(model).__name__} is not itself a model of transformers; apply the policy to the "
        "model inside, e.g. model.get_base_model() of peft or model.module of torch"
    )
