"""FLOPs of a vision tower and its projector, which no policy changes.

They are counted as `opsearch.costs.flops` counts a decoder (convention `exact`): two per
multiply-add, attention scores as a full rectangle, all layers, and the convolution of the patches.
They equal torch's FlopCounterMode to the integer for one sample.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from opsearch.formatting import screen_repr

Grid = tuple[int, int, int]
"""Pictures of one size, as number, height and width in patches: an image's tiles or a video."""


@dataclass(frozen=True)
class Tower:
    """Dimensions of a vision tower of identical layers, and of its projector.

    Attributes:
        layers: Number of layers.
        hidden: Width of the residual stream and of all heads.
        intermediate: Width of the MLP.
        mlp_matrices: Matrices of the MLP: 2, or 3 if it is gated.
        patch: Height and width of a patch in pixels.
        patch_inputs: Numbers that one patch is made of.
        merge: Height and width of the square of patches that becomes one visual token.
        projector: Multiply-adds of the projector for one visual token.
        extra: Tokens of each picture besides its patches, such as [CLS].
        projected_extra: Those among them that the projector reads.
        window: Height and width in patches of the windows in which most layers attend; None: all
            layers attend to the whole picture.
        whole: Layers that attend to the whole picture.
        packed: The pictures of a sample are padded to one size and attend as one sequence.
    """

    layers: int
    hidden: int
    intermediate: int
    mlp_matrices: int
    patch: int
    patch_inputs: int
    merge: int
    projector: int
    extra: int = 0
    projected_extra: int = 0
    window: int | None = None
    whole: int = 0
    packed: bool = False

    __repr__ = screen_repr

    def flops(self, grids: Sequence[Grid]) -> int:
        """Return the FLOPs for the images of one sample.

        Args:
            grids: The pictures that the tower reads, in any order.
        """
        rows = sum(number * (high * wide + self.extra) for number, high, wide in grids)
        patches = sum(number * high * wide for number, high, wide in grids)
        if self.packed and grids:
            numbers, heights, widths = zip(*grids, strict=True)
            patches = sum(numbers) * max(heights) * max(widths)
        embedding = 2 * patches * self.patch_inputs * self.hidden
        per_row = 8 * self.hidden**2 + 2 * self.mlp_matrices * self.hidden * self.intermediate
        pairs = self._pairs(grids, rows)
        projected = sum(number * self._projected(high, wide) for number, high, wide in grids)
        return (
            embedding
            + self.layers * per_row * rows
            + 4 * self.hidden * pairs
            + 2 * self.projector * projected
        )

    def _projected(self, high: int, wide: int) -> int:
        """Return the rows of one picture that the projector makes."""
        return (high // self.merge) * (wide // self.merge) + self.projected_extra

    def _pairs(self, grids: Sequence[Grid], rows: int) -> int:
        """Return the pairs of query and key, summed over the layers."""
        if self.packed:
            return self.layers * rows**2
        whole = sum(number * (high * wide + self.extra) ** 2 for number, high, wide in grids)
        if self.window is None:
            return self.layers * whole
        windows = sum(
            number * sum(a * a for a in _parts(high, self.window)) * _squares(wide, self.window)
            for number, high, wide in grids
        )
        return self.whole * whole + (self.layers - self.whole) * windows

    @classmethod
    def from_config(cls, config: Any) -> Tower | None:
        """Return the tower of a multimodal transformers config; None for one of another kind."""
        vision = getattr(config, "vision_config", None)
        connector = _CONNECTORS.get(config.model_type)
        if vision is None or connector is None:
            return None
        # In old transformers Ovis 2's vision config has no model type of its own.
        encoder = _ENCODERS.get(vision.model_type or config.model_type)
        if encoder is None or _has_head(vision):
            return None
        return cls(**(encoder(vision) | connector(config)))


def _has_head(vision: Any) -> bool:
    """Return whether a SigLIP pools its patches, as it does unless the config denies it."""
    # In old transformers the config has no value by default.
    return bool(getattr(vision, "vision_use_head", vision.model_type == "siglip_vision_model"))


def _parts(length: int, window: int) -> Iterator[int]:
    """Yield the lengths of windows side by side, of which the last may be smaller."""
    return (min(window, length - start) for start in range(0, length, window))


def _squares(length: int, window: int) -> int:
    return sum(part * part for part in _parts(length, window))


def _side(size: Any) -> int:
    """Return the side of a square that a config gives as a number or as [height, width]."""
    return int(size if isinstance(size, int) else size[0])


def _plain(vision: Any, extra: int = 0, mlp_matrices: int = 2) -> dict[str, Any]:
    """Return the encoder of a ViT whose config has the usual names."""
    patch = _side(vision.patch_size)
    return {
        "layers": vision.num_hidden_layers,
        "hidden": vision.hidden_size,
        "intermediate": vision.intermediate_size,
        "mlp_matrices": mlp_matrices,
        "patch": patch,
        "patch_inputs": vision.num_channels * patch**2,
        "extra": extra,
    }


def _gated(vision: Any) -> dict[str, Any]:
    return _plain(vision, mlp_matrices=3)


def _pixtral(vision: Any) -> dict[str, Any]:
    return _gated(vision) | {"packed": True}


def _qwen(vision: Any, hidden: int, intermediate: int, mlp_matrices: int = 2) -> dict[str, Any]:
    """Return the encoder of a Qwen-VL, whose patches span several frames."""
    channels = getattr(vision, "in_channels", None) or vision.in_chans
    return {
        "layers": vision.depth,
        "hidden": hidden,
        "intermediate": intermediate,
        "mlp_matrices": mlp_matrices,
        "patch": vision.patch_size,
        "patch_inputs": channels * vision.temporal_patch_size * vision.patch_size**2,
    }


def _qwen2(vision: Any) -> dict[str, Any]:
    return _qwen(vision, vision.embed_dim, int(vision.embed_dim * vision.mlp_ratio))


def _qwen2_5(vision: Any) -> dict[str, Any]:
    side = vision.spatial_merge_size
    whole = set(vision.fullatt_block_indexes) & set(range(vision.depth))
    return _qwen(vision, vision.hidden_size, vision.intermediate_size, 3) | {
        "window": vision.window_size // side // vision.patch_size * side,
        "whole": len(whole),
    }


def _qwen3(vision: Any) -> dict[str, Any]:
    return _qwen(vision, vision.hidden_size, vision.intermediate_size)


def _two_matrices(config: Any, layer: int | Sequence[int], merge: int = 1) -> dict[str, Any]:
    """Return a projector of two matrices on the features of one or several layers."""
    features = config.vision_config.hidden_size * (1 if isinstance(layer, int) else len(layer))
    width = config.text_config.hidden_size
    return {"merge": merge, "projector": features * merge**2 * width + width**2}


def _two_layers(config: Any, merge: int = 1) -> dict[str, Any]:
    """Return LLaVA's projector, which may read [CLS] too."""
    found = _two_matrices(config, config.vision_feature_layer, merge)
    has_cls = config.vision_config.model_type == "clip_vision_model"
    if has_cls and config.vision_feature_select_strategy != "default":
        found["projected_extra"] = 1
    return found


def _vipllava(config: Any) -> dict[str, Any]:
    """Return a projector that never reads [CLS]."""
    # The plural is the name of old transformers.
    layers = getattr(config, "vision_feature_layer", None) or config.vision_feature_layers
    return _two_matrices(config, layers)


def _internvl(config: Any) -> dict[str, Any]:
    return _two_layers(config, round(1 / config.downsample_ratio))


def _mistral3(config: Any) -> dict[str, Any]:
    """Return a merge of patches by one matrix, and two matrices."""
    vision, side = config.vision_config, config.spatial_merge_size
    found = _two_layers(config)
    merging = (vision.hidden_size * side) ** 2
    return {**found, "merge": side, "projector": found["projector"] + merging}


def _cohere(config: Any) -> dict[str, Any]:
    """Return two matrices on squares of patches, with a gate of half the width between them."""
    side, width = config.downsample_factor, config.text_config.hidden_size
    inner = getattr(config, "alignment_intermediate_size", width)
    features = config.vision_config.hidden_size * side**2
    return {"merge": side, "projector": features * inner + inner // 2 * width}


def _ovis2(config: Any) -> dict[str, Any]:
    """Return a head over the visual vocabulary, and the table that its probabilities weight.

    The head leaves out the tokens around images, which have rows in the table.
    """
    vision, side = config.vision_config, config.vision_config.hidden_stride
    chosen = vision.vocab_size - vision.num_visual_indicator_tokens
    head = vision.hidden_size * side**2 * chosen
    table = vision.vocab_size * config.hidden_size
    return {"merge": side, "projector": head + table}


def _idefics3(config: Any) -> dict[str, Any]:
    side = config.scale_factor
    width = config.vision_config.hidden_size * side**2
    return {"merge": side, "projector": width * config.text_config.hidden_size}


def _gemma3(config: Any) -> dict[str, Any]:
    """Return an average over squares of patches, and one matrix."""
    vision = config.vision_config
    side = _side(vision.image_size) // _side(vision.patch_size)
    width = vision.hidden_size * config.text_config.hidden_size
    return {"merge": side // int(config.mm_tokens_per_image**0.5), "projector": width}


def _paligemma(config: Any) -> dict[str, Any]:
    vision = config.vision_config
    return {"merge": 1, "projector": vision.hidden_size * vision.projection_dim}


def _glm(vision: Any) -> dict[str, Any]:
    return _qwen(vision, vision.hidden_size, vision.out_hidden_size, 3)


def _glm_merger(config: Any) -> dict[str, Any]:
    """Return a convolution over squares of patches, one matrix, and a gated MLP."""
    vision, side = config.vision_config, config.vision_config.spatial_merge_size
    out = vision.out_hidden_size
    merging = vision.hidden_size * side**2 * out
    return {"merge": side, "projector": merging + out**2 + 3 * out * vision.intermediate_size}


def _merger(hidden: int, side: int, out: int, mergers: int = 1) -> dict[str, Any]:
    """Return Qwen-VL's projectors of two matrices, which read squares of patches."""
    width = hidden * side**2
    return {"merge": side, "projector": mergers * (width**2 + width * out)}


def _qwen2_merger(config: Any) -> dict[str, Any]:
    vision = config.vision_config
    return _merger(vision.embed_dim, vision.spatial_merge_size, vision.hidden_size)


def _qwen2_5_merger(config: Any) -> dict[str, Any]:
    vision = config.vision_config
    return _merger(vision.hidden_size, vision.spatial_merge_size, vision.out_hidden_size)


def _qwen3_merger(config: Any) -> dict[str, Any]:
    """Return the projector and those of DeepStack, one for each layer that is read."""
    vision = config.vision_config
    read = set(vision.deepstack_visual_indexes) & set(range(vision.depth))
    out = vision.out_hidden_size
    return _merger(vision.hidden_size, vision.spatial_merge_size, out, 1 + len(read))


def _with_cls(vision: Any) -> dict[str, Any]:
    return _plain(vision, extra=1)


_ENCODERS = {
    "clip_vision_model": _with_cls,
    "siglip_vision_model": _plain,
    "internvl_vision": _with_cls,
    "pixtral": _pixtral,
    "idefics3_vision": _plain,
    "smolvlm_vision": _plain,
    "qwen2_vl": _qwen2,
    "qwen2_vl_vision": _qwen2,
    "qwen2_5_vl": _qwen2_5,
    "qwen2_5_vl_vision": _qwen2_5,
    "qwen3_vl": _qwen3,
    "qwen3_vl_vision": _qwen3,
    "qwen3_vl_moe": _qwen3,
    "qwen3_vl_moe_vision": _qwen3,
    "glm4v_vision": _glm,
    "ovis2": _gated,
    "ovis2_vision": _gated,
}
"""Readers of a vision config, by its model type, or the whole config's if it has none."""

_CONNECTORS = {
    "llava": _two_layers,
    "vipllava": _vipllava,
    "llava_next": _two_layers,
    "llava_next_video": _two_layers,
    "llava_onevision": _two_layers,
    "internvl": _internvl,
    "mistral3": _mistral3,
    "idefics3": _idefics3,
    "smolvlm": _idefics3,
    "gemma3": _gemma3,
    "paligemma": _paligemma,
    "qwen2_vl": _qwen2_merger,
    "qwen2_5_vl": _qwen2_5_merger,
    "qwen3_vl": _qwen3_merger,
    "qwen3_vl_moe": _qwen3_merger,
    "glm4v": _glm_merger,
    "glm46v": _glm_merger,
    "aya_vision": _cohere,
    "cohere2_vision": _cohere,
    "ovis2": _ovis2,
}
"""Readers of the projector in the whole config, by its model type."""
