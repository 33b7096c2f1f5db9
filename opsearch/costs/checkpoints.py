"""Whole prefills of published checkpoints on a typical image, from the numbers of their configs."""

from __future__ import annotations

from dataclasses import dataclass, replace

from opsearch.costs.base import SampleSize
from opsearch.costs.flops import Flops, text_only_floor
from opsearch.costs.shape import CHECKPOINTS, Shape
from opsearch.costs.tower import Grid, Tower


@dataclass(frozen=True)
class KnownPrefill:
    """A published checkpoint with a prompt of one typical image.

    Attributes:
        hub_id: Id on the Hugging Face hub.
        shape: Dimensions of the decoder.
        tower: Dimensions of vision tower and projector.
        grids: The pictures that the tower reads.
        visual_tokens: Visual tokens of the image.
        other_tokens: Other tokens of the prompt.
    """

    hub_id: str
    shape: Shape
    tower: Tower
    grids: tuple[Grid, ...]
    visual_tokens: int
    other_tokens: int = 65

    @property
    def size(self) -> SampleSize:
        """Sizes of the prompt on which costs depend."""
        return SampleSize(self.visual_tokens, self.other_tokens, self.tower.flops(self.grids))

    @property
    def text_only_floor(self) -> float:
        """Share of the decoder's FLOPs that remains without visual operations, 0 to 1."""
        return text_only_floor(self.shape, self.visual_tokens, self.other_tokens)

    @property
    def whole_floor(self) -> float:
        """Share of the whole prefill that no policy saves: tower and text, 0 to 1."""
        return self.tower_share + (1 - self.tower_share) * self.text_only_floor

    @property
    def tower_share(self) -> float:
        """Share of vision tower and projector in the FLOPs of the whole prefill, 0 to 1."""
        tower = self.tower.flops(self.grids)
        return tower / (tower + Flops(self.shape).stock(self.visual_tokens, self.other_tokens))


def _vit(layers: int, hidden: int, intermediate: int, patch: int = 14) -> Tower:
    """Return a ViT whose projector is still to be filled in."""
    return Tower(
        layers=layers,
        hidden=hidden,
        intermediate=intermediate,
        mlp_matrices=2,
        patch=patch,
        patch_inputs=3 * patch**2,
        merge=1,
        projector=0,
    )


def _projected(tower: Tower, width: int, merge: int = 1) -> Tower:
    """Return a tower with a projector of two matrices on squares of patches."""
    features = tower.hidden * merge**2
    return replace(tower, merge=merge, projector=features * width + width**2)


def _merged(tower: Tower, width: int, mergers: int = 1) -> Tower:
    """Return a tower of two frames per patch with Qwen-VL's projectors."""
    features = 4 * tower.hidden
    return replace(
        tower,
        patch_inputs=2 * tower.patch_inputs,
        merge=2,
        projector=mergers * (features**2 + features * width),
    )


_CLIP_LARGE = replace(_vit(24, 1024, 4096), extra=1)
_SIGLIP = _vit(27, 1152, 4304)
_PIXTRAL = replace(
    _vit(24, 1024, 4096),
    mlp_matrices=3,
    packed=True,
    merge=2,
    projector=4 * 1024**2 + 1024 * 5120 + 5120**2,
)
_GLM4V = replace(
    _vit(24, 1536, 4096),
    mlp_matrices=3,
    patch_inputs=2 * 3 * 14**2,
    merge=2,
    projector=4 * 1536 * 4096 + 4096**2 + 3 * 4096 * 13696,
)
_QWEN2_VL = _merged(_vit(32, 1280, 5120), 3584)
_QWEN2_5_VL = replace(_merged(_vit(32, 1280, 3420), 3584), mlp_matrices=3, window=8, whole=4)


def _of(name: str, tower: Tower, *grids: Grid) -> KnownPrefill:
    """Return the prefill of a checkpoint on its typical image."""
    known = CHECKPOINTS[name]
    return KnownPrefill(
        hub_id=known.hub_id,
        shape=known.shape,
        tower=tower,
        grids=grids,
        visual_tokens=known.visual_tokens,
        other_tokens=known.other_tokens,
    )


def _gemma(name: str) -> KnownPrefill:
    """Return the prefill of a Gemma 3, which averages 4 x 4 patches of an image of 896 x 896."""
    projector = 1152 * CHECKPOINTS[name].shape.hidden
    return _of(name, replace(_SIGLIP, merge=4, projector=projector), (1, 64, 64))


# Typical images are those of CHECKPOINTS; Qwen2.5-VL's 1,280 tokens are an image of 896 x 1120.
PREFILLS: dict[str, KnownPrefill] = {
    "llava-1.5-7b": _of("llava-1.5-7b", _projected(_CLIP_LARGE, 4096), (1, 24, 24)),
    "llava-1.5-13b": _of("llava-1.5-13b", _projected(_CLIP_LARGE, 5120), (1, 24, 24)),
    "llava-next-7b": _of("llava-next-7b", _projected(_CLIP_LARGE, 4096), (5, 24, 24)),
    "llava-next-13b": _of("llava-next-13b", _projected(_CLIP_LARGE, 5120), (5, 24, 24)),
    "qwen2.5-vl-7b": _of("qwen2.5-vl-7b", _QWEN2_5_VL, (1, 64, 80)),
    "internvl3-8b": _of("internvl3-8b", _projected(_CLIP_LARGE, 3584, 2), (5, 32, 32)),
    "llava-onevision-7b": _of(
        "llava-onevision-7b", _projected(replace(_SIGLIP, layers=26), 3584), (10, 27, 27)
    ),
    "qwen2-vl-7b": _of("qwen2-vl-7b", _QWEN2_VL, (1, 64, 80)),
    "qwen3-vl-4b": _of(
        "qwen3-vl-4b", _merged(_vit(24, 1024, 4096, patch=16), 2560, mergers=4), (1, 56, 56)
    ),
    "qwen3-vl-8b": _of(
        "qwen3-vl-8b", _merged(_vit(27, 1152, 4304, patch=16), 4096, mergers=4), (1, 56, 56)
    ),
    "internvl3.5-8b": _of("internvl3.5-8b", _projected(_CLIP_LARGE, 4096, 2), (5, 32, 32)),
    "smolvlm2-2.2b": _of(
        "smolvlm2-2.2b", replace(_SIGLIP, merge=3, projector=9 * 1152 * 2048), (17, 27, 27)
    ),
    "gemma-3-4b": _gemma("gemma-3-4b"),
    "gemma-3-12b": _gemma("gemma-3-12b"),
    "mistral-small-3.1-24b": _of("mistral-small-3.1-24b", _PIXTRAL, (1, 64, 64)),
    "glm-4.1v-9b": _of("glm-4.1v-9b", _GLM4V, (1, 64, 64)),
}
"""Prefills by the names that `--shape` takes."""


def known_image_flops(hub_id: str) -> int | None:
    """Return the FLOPs of the typical image of a checkpoint; None if they are not known."""
    known = (each.size.image_flops for each in PREFILLS.values() if each.hub_id == hub_id)
    return next(known, None)
