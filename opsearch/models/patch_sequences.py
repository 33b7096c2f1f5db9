"""Ranker inputs of towers that read all images as one sequence of patches.

In the towers of Qwen-VL and GLM-4V the patches of a visual token follow each other, in Mistral 3's
all patches are in the order of rows. Towers with window attention reorder the squares of patches
and restore their order behind the merger; captured values are restored the same way.
"""

from __future__ import annotations

import threading
from collections.abc import Collection, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d
from transformers.vision_utils import get_vision_window_index

from opsearch.models.handles import Handle, Store
from opsearch.models.tower_attention import capture_received
from opsearch.rankers.base import PREVIOUS_FRAME
from opsearch.rankers.upload import upload


def capture_patch_sequence(model: Any, needs: Collection[str], store: Store) -> list[Handle]:
    """Capture ranker inputs of a tower with the grid (time, height, width) of each image.

    The attention of a token is the mean over its patches; its features are all of theirs, those
    that the merger reads. The frames of a video are a tile each, because they attend to themselves.
    """
    tower, now = model.model.visual, threading.local()
    merged = tower.config.spatial_merge_size**2

    def before(module: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        now.tokens = len(args[0] if args else kwargs["hidden_states"]) // merged
        # Its numbers are read one by one: copied once, they make the host wait once.
        now.grid = (kwargs["grid_thw"] if "grid_thw" in kwargs else args[1]).cpu()
        now.restored = _restored_order(tower.config, now.grid)

    def after(module: nn.Module, args: Any, output: Any) -> None:
        frames = [(time, height * width // merged) for time, height, width in now.grid.tolist()]
        if "tiles" in needs:
            store("tiles", _frame_numbers(frames))
        if PREVIOUS_FRAME in needs:
            store(PREVIOUS_FRAME, frame_steps(frames))

    def keep(name: str, value: Tensor) -> None:
        restored = now.restored
        store(name, value if restored is None else value[upload(restored, value.device)])

    def on_merger(module: nn.Module, args: tuple[Tensor, ...]) -> None:
        # GLM-4V's merger reads a row per token, Qwen's a row per patch.
        keep("vision_features", args[0].reshape(now.tokens, -1))

    handles: list[Handle] = [
        tower.register_forward_pre_hook(before, with_kwargs=True),
        tower.register_forward_hook(after),
    ]
    if "vision_features" in needs:
        handles.append(tower.merger.register_forward_pre_hook(on_merger))
    return handles + capture_received(
        model, tower, needs, lambda name, value: keep(name, value.reshape(-1, merged).mean(1))
    )


def capture_sized_images(model: Any, needs: Collection[str], store: Store) -> list[Handle]:
    """Capture ranker inputs of Mistral 3: images of any size, given as (height, width) in pixels.

    The attention of a token is the mean over its square of patches; its features are all of theirs.
    """
    tower, projector, now = model.model.vision_tower, model.model.multi_modal_projector, _Grids()
    patch, size = tower.config.patch_size, model.config.spatial_merge_size

    def before(module: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        pixels = torch.as_tensor(kwargs["image_sizes"]).tolist()
        now.grids = [(height // patch, width // patch) for height, width in pixels]

    def after(module: nn.Module, args: Any, output: Any) -> None:
        tokens = [(height // size) * (width // size) for height, width in now.grids]
        store("tiles", torch.arange(len(tokens)).repeat_interleave(torch.tensor(tokens)))

    def on_merger(module: nn.Module, args: tuple[Tensor, ...]) -> None:
        store("vision_features", args[0])

    def keep(name: str, value: Tensor) -> None:
        images = value[0].split([height * width for height, width in now.grids])
        grids = [each.view(1, *grid) for each, grid in zip(images, now.grids, strict=True)]
        store(name, torch.cat([avg_pool2d(grid, size).flatten() for grid in grids]))

    handles: list[Handle] = [tower.register_forward_pre_hook(before, with_kwargs=True)]
    if "tiles" in needs:
        handles.append(tower.register_forward_hook(after))
    if "vision_features" in needs:
        merger = projector.patch_merger.merging_layer
        handles.append(merger.register_forward_pre_hook(on_merger))
    return handles + capture_received(model, tower, needs, keep)


class _Grids(threading.local):
    """Height and width in patches of each image in the tower's latest forward of this thread."""

    grids: Sequence[tuple[int, int]] = ()


def _restored_order(config: Any, grid: Tensor) -> Tensor | None:
    """Return the place of each token in the order of window attention, None without windows."""
    if not getattr(config, "fullatt_block_indexes", None):
        return None
    shuffled, _ = get_vision_window_index(
        grid,
        spatial_merge_size=config.spatial_merge_size,
        window_size=config.window_size,
        patch_size=config.patch_size,
    )
    return torch.argsort(shuffled)


def _frame_numbers(frames: Sequence[tuple[int, int]]) -> Tensor:
    """Return the frame of each token; `frames` has their number and tokens for each image."""
    sizes = [tokens for time, tokens in frames for _ in range(time)]
    return torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))


def frame_steps(frames: Sequence[tuple[int, int]]) -> Tensor:
    """Return the distance of each token to the one at its place in the preceding frame, or 0.

    Args:
        frames: Number of frames and tokens of each, for each image or video.
    """
    steps = [
        torch.full((time, tokens), tokens).index_fill(0, torch.tensor([0]), 0).flatten()
        for time, tokens in frames
    ]
    return torch.cat(steps)
