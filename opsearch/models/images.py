"""Pictures that a vision tower reads for a sample, in patches, from the inputs of the model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from opsearch.costs.tower import Grid, Tower
from opsearch.models.families import family_for

_GRIDS = ("image_grid_thw", "video_grid_thw")
_PIXELS = ("pixel_values", "pixel_values_videos", *_GRIDS)


def image_flops(config: Any, inputs: Mapping[str, Tensor]) -> int | None:
    """Return the FLOPs of vision tower and projector for one sample.

    Args:
        config: Config of the model.
        inputs: Inputs of the model, batch size 1.

    Returns:
        The FLOPs, 0 without images; None if the tower is of a kind that is not described, or the
        sample holds a video that the family does not read as a grid.
    """
    if not any(name in inputs for name in _PIXELS):
        return 0
    tower = Tower.from_config(config)
    if tower is None or ("pixel_values_videos" in inputs and "video_grid_thw" not in inputs):
        return None
    return tower.flops(image_grids(config, tower, inputs))


def image_grids(config: Any, tower: Tower, inputs: Mapping[str, Tensor]) -> list[Grid]:
    """Return the pictures of one sample: of each image, or of all if they have one size."""
    if any(name in inputs for name in _GRIDS):
        rows = [row for name in _GRIDS if name in inputs for row in inputs[name].tolist()]
        return [(frames, high, wide) for frames, high, wide in rows]
    if tower.packed:
        sizes = inputs["image_sizes"].tolist()
        return [(1, high // tower.patch, wide // tower.patch) for high, wide in sizes]
    pixels = inputs["pixel_values"]
    high, wide = (int(side) // tower.patch for side in pixels.shape[-2:])
    if family_for(config.model_type).tiles_by_size:
        return [(_tiles(config, inputs), high, wide)]
    pictures = pixels.flatten(0, -4)
    if pixels.ndim == 5:  # Idefics3 and SmolVLM leave out padding, which is all zeros
        pictures = pictures[pictures.flatten(1).any(1)]
    return [(max(len(pictures), 1), high, wide)]


def _tiles(config: Any, inputs: Mapping[str, Tensor]) -> int:
    """Return the tiles of all images; in LLaVA-OneVision several images have one tile each."""
    from transformers.models.llava_next.modeling_llava_next import image_size_to_num_patches

    sizes = inputs["image_sizes"].tolist()
    numbers = inputs.get("batch_num_images")
    if numbers is not None and int(numbers[0]) != 1:
        return len(sizes)
    pinpoints, side = config.image_grid_pinpoints, config.vision_config.image_size
    return sum(image_size_to_num_patches(size, pinpoints, side) for size in sizes)
