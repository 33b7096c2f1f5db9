"""Whole prefills of published checkpoints on a typical image, from the numbers of their configs.

Some are of families that no policy can be applied to yet: they show what a tower takes there.
"""

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
_QWEN2_VL = _merged(_vit(32, 1280, 5120), 3584)
_QWEN2_5_VL = replace(_merged(_vit(32, 1280, 3420), 3584), mlp_matrices=3, window=8, whole=4)
_QWEN3_8B = Shape(
    layers=36, hidden=4096, intermediate=12288, heads=32, kv_heads=8, head_dim=128, vocab=151936
)
_QWEN3_VL_4B = replace(_QWEN3_8B, hidden=2560, intermediate=9728)
_SMOLLM2 = Shape(
    layers=24, hidden=2048, intermediate=8192, heads=32, kv_heads=32, head_dim=64, vocab=49280
)
_GEMMA3_4B = Shape(
    layers=34, hidden=2560, intermediate=10240, heads=8, kv_heads=4, head_dim=256, vocab=262208
)
_GEMMA3_12B = Shape(
    layers=48, hidden=3840, intermediate=15360, heads=16, kv_heads=8, head_dim=256, vocab=262208
)
_MISTRAL = Shape(
    layers=40, hidden=5120, intermediate=32768, heads=32, kv_heads=8, head_dim=128, vocab=131072
)
_GLM4 = Shape(
    layers=40, hidden=4096, intermediate=13696, heads=32, kv_heads=2, head_dim=128, vocab=151552
)


def _supported(name: str, tower: Tower, *grids: Grid) -> KnownPrefill:
    """Return the prefill of a checkpoint that `--shape` takes."""
    known = CHECKPOINTS[name]
    return KnownPrefill(
        hub_id=known.hub_id,
        shape=known.shape,
        tower=tower,
        grids=grids,
        visual_tokens=known.visual_tokens,
        other_tokens=known.other_tokens,
    )


def _qwen(hub_id: str, shape: Shape, tower: Tower, grid: Grid) -> KnownPrefill:
    """Return the prefill of a model that merges squares of 2 x 2 patches."""
    tokens = grid[1] * grid[2] // 4
    return KnownPrefill(hub_id, shape, tower, (grid,), tokens, other_tokens=45)


def _gemma(hub_id: str, shape: Shape) -> KnownPrefill:
    """Return the prefill of a Gemma 3, which averages 4 x 4 patches of an image of 896 x 896."""
    tower = replace(_SIGLIP, merge=4, projector=1152 * shape.hidden)
    return KnownPrefill(hub_id, shape, tower, ((1, 64, 64),), 256)


# Typical images: those of CHECKPOINTS, of which Qwen's 1,280 tokens are an image of 896 x 1120; of
# the others 896 x 896 where the size is free, and for SmolVLM2 a square image, which has 16 tiles.
PREFILLS: dict[str, KnownPrefill] = {
    "llava-1.5-7b": _supported("llava-1.5-7b", _projected(_CLIP_LARGE, 4096), (1, 24, 24)),
    "llava-1.5-13b": _supported("llava-1.5-13b", _projected(_CLIP_LARGE, 5120), (1, 24, 24)),
    "llava-next-7b": _supported("llava-next-7b", _projected(_CLIP_LARGE, 4096), (5, 24, 24)),
    "llava-next-13b": _supported("llava-next-13b", _projected(_CLIP_LARGE, 5120), (5, 24, 24)),
    "qwen2.5-vl-7b": _supported("qwen2.5-vl-7b", _QWEN2_5_VL, (1, 64, 80)),
    "internvl3-8b": _supported("internvl3-8b", _projected(_CLIP_LARGE, 3584, 2), (5, 32, 32)),
    "llava-onevision-7b": _supported(
        "llava-onevision-7b", _projected(replace(_SIGLIP, layers=26), 3584), (10, 27, 27)
    ),
    "qwen2-vl-7b": _qwen(
        "Qwen/Qwen2-VL-7B-Instruct", CHECKPOINTS["qwen2.5-vl-7b"].shape, _QWEN2_VL, (1, 64, 80)
    ),
    "qwen3-vl-4b": _qwen(
        "Qwen/Qwen3-VL-4B-Instruct",
        _QWEN3_VL_4B,
        _merged(_vit(24, 1024, 4096, patch=16), 2560, mergers=4),
        (1, 56, 56),
    ),
    "qwen3-vl-8b": _qwen(
        "Qwen/Qwen3-VL-8B-Instruct",
        _QWEN3_8B,
        _merged(_vit(27, 1152, 4304, patch=16), 4096, mergers=4),
        (1, 56, 56),
    ),
    "internvl3.5-8b": KnownPrefill(
        hub_id="OpenGVLab/InternVL3_5-8B-HF",
        shape=_QWEN3_8B,
        tower=_projected(_CLIP_LARGE, 4096, 2),
        grids=((5, 32, 32),),
        visual_tokens=1280,
    ),
    "smolvlm2-2.2b": KnownPrefill(
        hub_id="HuggingFaceTB/SmolVLM2-2.2B-Instruct",
        shape=_SMOLLM2,
        tower=replace(_SIGLIP, merge=3, projector=9 * 1152 * 2048),
        grids=((17, 27, 27),),
        visual_tokens=1377,
    ),
    "gemma-3-4b": _gemma("google/gemma-3-4b-it", _GEMMA3_4B),
    "gemma-3-12b": _gemma("google/gemma-3-12b-it", _GEMMA3_12B),
    "mistral-small-3.1-24b": KnownPrefill(
        hub_id="mistralai/Mistral-Small-3.1-24B-Instruct-2503",
        shape=_MISTRAL,
        tower=replace(
            _vit(24, 1024, 4096),
            mlp_matrices=3,
            packed=True,
            merge=2,
            projector=4 * 1024**2 + 1024 * 5120 + 5120**2,
        ),
        grids=((1, 64, 64),),
        visual_tokens=1024,
    ),
    "glm-4.1v-9b": _qwen(
        "zai-org/GLM-4.1V-9B-Thinking",
        _GLM4,
        replace(
            _vit(24, 1536, 4096),
            mlp_matrices=3,
            patch_inputs=2 * 3 * 14**2,
            merge=2,
            projector=4 * 1536 * 4096 + 4096**2 + 3 * 4096 * 13696,
        ),
        (1, 64, 64),
    ),
}
"""Prefills by the names that `--shape` takes, and by like names of further checkpoints."""


def known_image_flops(hub_id: str) -> int | None:
    """Return the FLOPs of the typical image of a checkpoint; None if they are not known."""
    known = (each.size.image_flops for each in PREFILLS.values() if each.hub_id == hub_id)
    return next(known, None)
