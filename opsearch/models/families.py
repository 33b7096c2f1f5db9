"""The supported model families and the layout of their modules.

This is the only module that knows families by name. To add one to those that are tested, add an
entry to FAMILIES and a tiny model to the tests; all other code reaches the parts of a model through
its ModelFamily.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from opsearch import registry
from opsearch.data.demo import MODEL_DIR
from opsearch.errors import ModelError, OpsearchError, echo
from opsearch.models.clip import clip_unsupported_reason, not_clip_reason
from opsearch.models.handles import Handle, Store
from opsearch.models.image_levers import Lever, Pixels, Side, Tiles
from opsearch.models.packed_patches import capture_packed_patches
from opsearch.models.patch_sequences import capture_patch_sequence, capture_sized_images
from opsearch.models.patch_squares import Squares, joined_squares, means_of_squares
from opsearch.models.tower_attention import received_unsupported_reason
from opsearch.models.vision import (
    TOWER_NEEDS,
    Capture,
    Paths,
    capture_patches,
    cls_of_internvl,
    cls_unsupported_reason,
)
from opsearch.policy.ranker import RankerSpec
from opsearch.rankers import known_ranker
from opsearch.rankers.base import (
    CLIP_PATCHES,
    CLIP_QUESTION,
    DECODER_ATTENTION,
    PREVIOUS_FRAME,
    PROMPT_NEEDS,
    RECEIVED,
)


@dataclass(frozen=True)
class ModelFamily:
    """Layout of a model family, as attribute paths from the model with its language-model head.

    Attributes:
        model_type: `model_type` of the family's config.
        ranker: Default ranker of the family.
        capture_tower: Installs the hooks that capture ranker inputs in the vision tower; None if
            nothing is captured in it.
        vision_tower: Module whose output becomes the image features.
        trunk: Module that merges image features and text and calls the decoder.
        decoder: Text model with `.layers`.
        visual_tokens: Config attributes that hold the placeholder ids of visual tokens.
        positions_from: Input besides input_ids that position ids are computed from, or None.
        grid: Input with (time, height, width) of each image in patches, whose tokens have positions
            in this grid; None if each token has a position of its own.
        attends: Tokens that visual tokens attend to beyond the earlier ones: none ("causal"), those
            of their image ("image"), or the whole prompt ("prompt").
        answer_type: Value of an answer's tokens in `token_type_ids`.
        bounds_logits: True if `final_logit_softcapping` of the decoder's config is applied.
        tiles_by_size: True if the size of an image tells how many of its tiles the tower reads.
        joins_features: True if the features of all images are one tensor, not one of each image.
        captures_frames: True if `capture_tower` finds the frames of videos.
        lever: What makes its image processor give fewer visual tokens; None: nothing does.
        one_size: Why nothing does.
        tested: True if its models are compared with the reference in the tests.
        checkpoints: Published checkpoints, as ids on the Hugging Face hub.
        special: Where a policy meets more than plain causal layers, for docs/families.md.
    """

    model_type: str
    ranker: RankerSpec
    capture_tower: Capture | None = None
    vision_tower: str = "model.vision_tower"
    trunk: str = "model"
    decoder: str = "model.language_model"
    visual_tokens: tuple[str, ...] = ("image_token_id",)
    positions_from: str | None = None
    grid: str | None = None
    attends: Literal["causal", "image", "prompt"] = "causal"
    answer_type: int = 0
    bounds_logits: bool = False
    tiles_by_size: bool = False
    joins_features: bool = False
    captures_frames: bool = False
    lever: Lever | None = None
    one_size: str = "its images have one size"
    tested: bool = True
    checkpoints: tuple[str, ...] = ()
    special: str = ""

    @property
    def causal(self) -> bool:
        """True if all tokens attend to earlier ones only."""
        return self.attends == "causal"

    def visual_positions(self, config: Any, input_ids: Tensor) -> Tensor:
        """Return a mask of the positions that hold image or video tokens, bool[B, S].

        Raises:
            ModelError: The config names no such token.
        """
        ids = [getattr(config, token, None) for token in self.visual_tokens]
        found = [torch.eq(input_ids, token) for token in ids if token is not None]
        if not found:
            raise ModelError(
                f"the config of a model of type {echo(self.model_type)} has no "
                f"{' or '.join(self.visual_tokens)}, by which visual tokens are found; use a model "
                "of a family in docs/families.md"
            )
        return torch.stack(found).any(0)

    def unsupported_reason(self, config: Any, need: str) -> str | None:
        """Return why a model of this config cannot provide a ranker input, None if it can."""
        if need == "question_embeddings":
            return _question_unsupported_reason(config)
        if need == DECODER_ATTENTION or need in PROMPT_NEEDS:
            return None
        if self.capture_tower is None:
            return "nothing is captured in its vision tower"
        for kind in (CLIP_PATCHES, CLIP_QUESTION):
            if need.startswith(kind):
                folder = need.removeprefix(kind)
                return clip_unsupported_reason(folder, config) or cls_unsupported_reason(config)
        if need.startswith(RECEIVED):
            return received_unsupported_reason(config, need)
        if need == PREVIOUS_FRAME and not self.captures_frames:
            has_videos = "video_token_id" in self.visual_tokens
            return (
                "its vision tower does not know which frames belong to a video"
                if has_videos
                else "its prompts have no videos"
            )
        if need not in TOWER_NEEDS | {PREVIOUS_FRAME}:
            return "no hook captures it"
        return cls_unsupported_reason(config) if need == "cls_attention" else None

    def image_lever(self) -> Lever:
        """Return what makes the image processor give fewer visual tokens.

        Raises:
            ModelError: Nothing does; names the families where something does.
        """
        if self.lever is None:
            known = ", ".join(name for name, family in FAMILIES.items() if family.lever)
            raise ModelError(
                f"images of family {echo(self.model_type)} cannot have fewer visual tokens, "
                f"because {self.one_size}; prune more of them instead, by a lower --budget "
                f"without --images, or use a model of {known}"
            )
        return self.lever

    def check_needs(self, config: Any, needs: Iterable[str]) -> None:
        """Raise ModelError, naming usable rankers, unless this config provides all `needs`."""
        for need in sorted(needs):
            reason = self.unsupported_reason(config, need)
            if reason is not None:
                raise ModelError(
                    f"family {echo(self.model_type)} cannot provide {echo(need)}, which the ranker "
                    f"reads: {reason}; choose another --ranker, e.g. "
                    f"{', '.join(self.rankers(config))}"
                )

    def unsupported_rankers(self, config: Any) -> dict[str, str]:
        """Return the rankers that this config cannot run with default parameters, with reasons."""
        names = [*registry.names("rankers"), *registry.names("decoder_rankers")]
        reasons = {name: self._unusable_reason(config, RankerSpec(name)) for name in names}
        return {name: reason for name, reason in reasons.items() if reason is not None}

    def rankers(self, config: Any) -> list[str]:
        """Return the rankers before the decoder that this config can run by default."""
        unsupported = self.unsupported_rankers(config)
        return [name for name in registry.names("rankers") if name not in unsupported]

    def _unusable_reason(self, config: Any, spec: RankerSpec) -> str | None:
        try:
            needs = sorted(known_ranker(spec).needs)
        except OpsearchError as error:  # a parameter without default, or a broken plug-in
            return str(error)
        reasons = (self.unsupported_reason(config, need) for need in needs)
        return next((reason for reason in reasons if reason is not None), None)

    def capture(self, model: Any, needs: Collection[str], store: Store) -> list[Handle]:
        """Install hooks that pass ranker inputs to `store` in every forward.

        Returns:
            Handles that remove the hooks.

        Raises:
            ModelError: A model of this config cannot provide one of `needs`.
        """
        self.check_needs(model.config, needs)
        if self.capture_tower is None or PROMPT_NEEDS.issuperset(needs):
            return []
        return self.capture_tower(model, needs, store)


def _question_unsupported_reason(config: Any) -> str | None:
    """Return why token embeddings cannot be compared with image features, None if they can."""
    if Path(config.name_or_path).resolve() == MODEL_DIR.resolve():
        return None
    reason = "only the embedded model's token embeddings can be compared with its image features"
    return not_clip_reason(config) or f"{reason}: give cdpruner(clip=FOLDER)"


# Decoders whose layers are compared with the reference in the tests. A family may hold any other.
DECODERS = frozenset(
    {
        "cohere2",
        "gemma",
        "gemma2",
        "gemma3_text",
        "glm4v_text",
        "llama",
        "mistral",
        "qwen2",
        "qwen2_5_vl_text",
        "qwen2_vl_text",
        "qwen3",
        "qwen3_vl_moe_text",
        "qwen3_vl_text",
    }
)

# docs/rankers.md has the measurement that chose between the rankers without [CLS].
_DIVPRUNE, _CLS = RankerSpec("divprune"), RankerSpec("cls")
_IMAGE_AND_VIDEO = ("image_token_id", "video_token_id")

# The model reads the tiles from its own config, too.
_PINPOINTS = (
    "its model and its processor both take the tiles of an image from image_grid_pinpoints, and a "
    "processor alone cannot change them"
)
_VIDEOS: dict[str, Any] = {"visual_tokens": _IMAGE_AND_VIDEO, "captures_frames": True}
_QWEN: dict[str, Any] = {
    **_VIDEOS,
    "vision_tower": "model.visual",
    "positions_from": "mm_token_type_ids",
    "grid": "image_grid_thw",
    "lever": Pixels(),
}
# Each frame of a video is an image to GLM-4V's tower.
_GLM = {**_QWEN, "captures_frames": False, "lever": Pixels(frames="temporal_patch_size")}
_IDEFICS: dict[str, Any] = {
    "vision_tower": "model.vision_model",
    "decoder": "model.text_model",
    "lever": Side(lambda processor: processor.image_processor.max_image_size["longest_edge"]),
}

_INTERNVL = Squares(lambda config: round(1 / config.downsample_ratio), cls_layer=cls_of_internvl)
_GEMMA = Squares(
    lambda config: math.isqrt(_patches(config.vision_config) // config.mm_tokens_per_image),
    means_of_squares,
)
_COHERE = Squares(lambda config: config.downsample_factor, joined_squares)
_OVIS = Squares(
    lambda config: config.vision_config.hidden_stride,
    paths=Paths(projector="model.vision_tower.head_linear"),
)
_IDEFICS_SQUARES = Squares(
    lambda config: config.scale_factor,
    joined_squares,
    Paths("model.vision_model", "model.connector"),
)

FAMILIES = {
    family.model_type: family
    for family in (
        ModelFamily(
            "llava",
            _CLS,
            capture_patches,
            checkpoints=("llava-hf/llava-1.5-7b-hf", "llava-hf/llava-1.5-13b-hf"),
        ),
        # Several layers of the tower are joined, none of whose [CLS] attention stands for all.
        ModelFamily(
            "vipllava",
            _DIVPRUNE,
            capture_patches,
            joins_features=True,
            checkpoints=("llava-hf/vip-llava-7b-hf",),
        ),
        ModelFamily(
            "llava_next",
            _CLS,
            capture_packed_patches,
            tiles_by_size=True,
            checkpoints=("llava-hf/llava-v1.6-vicuna-7b-hf", "llava-hf/llava-v1.6-mistral-7b-hf"),
            special="tiles, a newline token behind each row",
            one_size=_PINPOINTS,
        ),
        ModelFamily(
            "llava_next_video",
            _CLS,
            capture_packed_patches,
            tiles_by_size=True,
            checkpoints=("llava-hf/LLaVA-NeXT-Video-7B-hf",),
            special="tiles; videos of pooled frames",
            one_size=_PINPOINTS,
            **_VIDEOS,
        ),
        # SigLIP has no [CLS].
        ModelFamily(
            "llava_onevision",
            _DIVPRUNE,
            capture_packed_patches,
            tiles_by_size=True,
            checkpoints=("llava-hf/llava-onevision-qwen2-7b-ov-hf",),
            special="tiles; videos of pooled frames",
            one_size=_PINPOINTS,
            **_VIDEOS,
        ),
        # InternVL's decoder reads the patches of the last vision layer, whose [CLS] output is
        # unused. Training did not shape the attention of [CLS] there, so `cls` works but is not the
        # default.
        ModelFamily(
            "internvl",
            _DIVPRUNE,
            _INTERNVL,
            joins_features=True,
            checkpoints=("OpenGVLab/InternVL3-8B-hf", "OpenGVLab/InternVL3_5-8B-HF"),
            special="tiles; a token is a square of patches",
            lever=Tiles("max_patches"),
        ),
        ModelFamily(
            "qwen2_vl",
            _DIVPRUNE,
            capture_patch_sequence,
            checkpoints=("Qwen/Qwen2-VL-7B-Instruct",),
            special="positions in time, height and width",
            **_QWEN,
        ),
        ModelFamily(
            "qwen2_5_vl",
            _DIVPRUNE,
            capture_patch_sequence,
            checkpoints=("Qwen/Qwen2.5-VL-7B-Instruct",),
            special="positions in time, height and width",
            **_QWEN,
        ),
        ModelFamily(
            "qwen3_vl",
            _DIVPRUNE,
            capture_patch_sequence,
            checkpoints=("Qwen/Qwen3-VL-8B-Instruct",),
            special="DeepStack: visual features are added behind the first layers; positions in "
            "time, height and width",
            **_QWEN,
        ),
        ModelFamily(
            "qwen3_vl_moe",
            _DIVPRUNE,
            capture_patch_sequence,
            checkpoints=("Qwen/Qwen3-VL-30B-A3B-Instruct",),
            special="as qwen3_vl, with experts",
            **_QWEN,
        ),
        ModelFamily(
            "glm4v",
            _DIVPRUNE,
            capture_patch_sequence,
            checkpoints=("zai-org/GLM-4.1V-9B-Thinking",),
            special="four norms; positions in time, height and width, for a half of each head",
            **_GLM,
        ),
        ModelFamily(
            "glm46v",
            _DIVPRUNE,
            capture_patch_sequence,
            checkpoints=("zai-org/GLM-4.6V-Flash",),
            special="as glm4v",
            **_GLM,
        ),
        ModelFamily(
            "idefics3",
            _DIVPRUNE,
            _IDEFICS_SQUARES,
            checkpoints=("HuggingFaceM4/Idefics3-8B-Llama3",),
            special="tiles, with text between them",
            **_IDEFICS,
        ),
        ModelFamily(
            "smolvlm",
            _DIVPRUNE,
            _IDEFICS_SQUARES,
            checkpoints=("HuggingFaceTB/SmolVLM2-2.2B-Instruct",),
            special="tiles, with text between them",
            **_IDEFICS,
        ),
        ModelFamily(
            "mistral3",
            _DIVPRUNE,
            capture_sized_images,
            checkpoints=("mistralai/Mistral-Small-3.1-24B-Instruct-2503",),
            special="a text token behind each row; a window in all layers if the config has one",
            lever=Side(lambda processor: processor.patch_size * processor.spatial_merge_size),
        ),
        ModelFamily(
            "gemma3",
            _DIVPRUNE,
            _GEMMA,
            joins_features=True,
            attends="image",
            checkpoints=("google/gemma-3-4b-it", "google/gemma-3-12b-it"),
            special="four norms; five of six layers attend within a window; tokens of an image "
            "attend to each other in both directions",
        ),
        ModelFamily(
            "paligemma",
            _DIVPRUNE,
            capture_patches,
            joins_features=True,
            attends="prompt",
            answer_type=1,
            bounds_logits=True,
            checkpoints=("google/paligemma-3b-mix-224", "google/paligemma2-3b-mix-224"),
            special="all tokens of the prompt attend to each other",
        ),
        ModelFamily(
            "aya_vision",
            _DIVPRUNE,
            _COHERE,
            joins_features=True,
            checkpoints=("CohereLabs/aya-vision-8b",),
            special="attention and MLP in parallel; three of four layers attend within a window, "
            "the fourth has no positions",
            lever=Tiles("max_patches"),
        ),
        ModelFamily(
            "cohere2_vision",
            _DIVPRUNE,
            _COHERE,
            joins_features=True,
            checkpoints=("CohereLabs/command-a-vision-07-2025",),
            special="as aya_vision",
            lever=Tiles("max_patches"),
        ),
        ModelFamily(
            "ovis2",
            _DIVPRUNE,
            _OVIS,
            joins_features=True,
            checkpoints=("thisisiron/Ovis2-2B-hf",),
            special="embeddings of their own around images",
            lever=Tiles("max_patches"),
        ),
        # The [CLS] token of its tower is left out, and timm returns no attention.
        ModelFamily(
            "perception_lm",
            _DIVPRUNE,
            visual_tokens=_IMAGE_AND_VIDEO,
            checkpoints=("facebook/Perception-LM-1B", "facebook/Perception-LM-8B"),
            special="tiles of a tower of timm; videos",
            lever=Tiles("max_num_tiles"),
        ),
    )
}


def _patches(vision_config: Any) -> int:
    """Return the number of patches of an image of a tower's own size."""
    side: int = vision_config.image_size // vision_config.patch_size
    return side**2


def family_for(model_type: str) -> ModelFamily:
    """Return the family of a model type.

    Image-text models that are not in FAMILIES are described by their class; their layers are
    compared when they are loaded (`opsearch.models.layers`).

    Raises:
        ModelError: Transformers has no image-text model of this type.
    """
    if model_type in FAMILIES:
        return FAMILIES[model_type]
    family = _described(model_type)
    if family is None:
        raise ModelError(
            f"models of type {echo(model_type)} are not supported; use one of type "
            f"{', '.join(sorted(FAMILIES))}"
        )
    return family


@cache
def _described(model_type: str) -> ModelFamily | None:
    """Return a family as the model's class describes it, None if there is no such class."""
    from transformers import CONFIG_MAPPING, MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING

    if model_type not in CONFIG_MAPPING:
        return None
    kind: Any = MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING.get(CONFIG_MAPPING[model_type], None)
    if kind is None:
        return None
    in_grid = "mm_token_type_ids" in inspect.signature(kind.forward).parameters
    return ModelFamily(
        model_type,
        _DIVPRUNE,
        visual_tokens=_IMAGE_AND_VIDEO,
        positions_from="mm_token_type_ids" if in_grid else None,
        grid="image_grid_thw" if in_grid else None,
        tested=False,
    )
