"""Ranker inputs of towers whose tiles are joined and cropped to the shape of the image."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Collection, Sequence
from functools import wraps
from typing import Any

import torch
from torch import Tensor, nn

from opsearch.models.handles import Handle, Replaced, Store
from opsearch.models.patch_sequences import frame_steps
from opsearch.models.patch_squares import means_of_squares
from opsearch.models.vision import cls_of_clip, on_tower
from opsearch.rankers.base import PREVIOUS_FRAME


def capture_packed_patches(model: Any, needs: Collection[str], store: Store) -> list[Handle]:
    """Capture ranker inputs of LLaVA-NeXT(-Video) and LLaVA-OneVision: the image, then its tiles.

    Each tile has its own [CLS]; scores of different tiles are compared without rescaling. A newline
    token has no patch and copies the values of the token before it, so it ranks next to that token.
    Frames of videos are pooled and are a tile each; LLaVA-OneVision ends each video by a newline
    token.
    """
    trunk, captured = model.model, _Captured()
    handles = on_tower(model, needs, cls_of_clip, captured.keep)
    frames = PREVIOUS_FRAME in needs
    handles.append(_replace(trunk, "pack_image_features", _packing(captured, store, frames)))
    if hasattr(trunk, "apply_pooling"):
        handles.append(_replace(trunk, "get_video_features", _counting(captured)))
        handles.append(_replace(trunk, "apply_pooling", _pooling(captured, store, frames)))
    if hasattr(trunk, "vision_resampler"):
        handles.append(_replace(trunk, "get_video_features", _counting(captured)))
        handles += _on_resampler(trunk, captured, store, frames)
    return handles


class _Captured(threading.local):
    """Values of the tower's last forward in this thread, [tiles, tokens] or [tiles, tokens, D].

    Attributes:
        values: The values by name.
        videos: Number of videos of the last forward with videos.
        pooled: True from the pooling of LLaVA-NeXT-Video's frames to their projection.
    """

    def __init__(self) -> None:
        self.values: dict[str, Tensor] = {}
        self.videos = 0
        self.pooled = False

    def keep(self, name: str, value: Tensor) -> None:
        self.values[name] = value

    def take(self) -> dict[str, Tensor]:
        taken, self.values = self.values, {}
        return taken


Method = Callable[..., Any]


def _replace(trunk: Any, name: str, change: Callable[[Method], Method]) -> Handle:
    """Replace a method of a module instance."""
    stock = getattr(trunk, name)
    return Replaced(trunk, **{name: wraps(stock)(change(stock))})


def _packing(captured: _Captured, store: Store, frames: bool) -> Callable[[Method], Method]:
    """Return a change of `pack_image_features` that packs the captured values, too."""

    def change(stock: Method) -> Method:
        def pack(image_features: Any, image_sizes: Any, *args: Any, **kwargs: Any) -> Any:
            lengths = [len(feature) for feature in image_features]
            sizes = torch.as_tensor(image_sizes).cpu()  # whose elements are read one by one

            def packed(rows: Tensor) -> list[Tensor]:
                newline = rows.new_full((rows.shape[-1],), math.nan)
                given = kwargs | {"image_newline": newline}
                images: list[Tensor] = stock(rows.split(lengths), sizes, *args, **given)[0]
                return [torch.where(each.isnan(), each.roll(1, 0), each) for each in images]

            for name, value in captured.take().items():
                if name == "tiles":
                    store(name, _packed_tiles(packed, lengths, value.shape[1]))
                elif value.ndim == 3:
                    store(name, torch.cat(packed(value)))
                else:
                    rows = torch.cat(packed(value[..., None].float()))
                    store(name, rows[:, 0].to(value.dtype))
            result = stock(image_features, sizes, *args, **kwargs)
            if frames:
                store(PREVIOUS_FRAME, torch.zeros(sum(map(len, result[0])), dtype=torch.int64))
            return result

        return pack

    return change


def _packed_tiles(
    packed: Callable[[Tensor], list[Tensor]], lengths: Sequence[int], tokens: int
) -> Tensor:
    """Return the tile of each token; one of a scaled image belongs to that with the most weight."""
    numbers = torch.cat([torch.arange(length) for length in lengths])
    weights = torch.nn.functional.one_hot(numbers, max(lengths)).float()
    images, first, tiles = packed(weights[:, None].expand(-1, tokens, -1)), 0, []
    for image, length in zip(images, lengths, strict=True):
        tiles.append(first + image.argmax(-1))
        first += length
    return torch.cat(tiles)


def _counting(captured: _Captured) -> Callable[[Method], Method]:
    """Return a change of `get_video_features` that counts the videos."""

    def change(stock: Method) -> Method:
        def encode(*args: Any, **kwargs: Any) -> Any:
            pixels = args[0] if args else kwargs.get("pixel_values_videos")
            # Older releases of transformers name the videos as they name images.
            pixels = kwargs.get("pixel_values") if pixels is None else pixels
            captured.videos = len(pixels) if pixels is not None else 0
            return stock(*args, **kwargs)

        return encode

    return change


def _pooling(captured: _Captured, store: Store, frames: bool) -> Callable[[Method], Method]:
    """Return a change of `apply_pooling` that pools the captured values of videos, too."""

    def change(stock: Method) -> Method:
        def pool(features: Tensor) -> Tensor:
            pooled: Tensor = stock(features)
            size, videos = pooled.shape[1], captured.videos

            def with_newlines(rows: Tensor) -> Tensor:
                rows = rows.reshape(videos, -1, *rows.shape[2:])
                return torch.cat([rows, rows[:, -1:]], 1).flatten(0, 1)

            for name, value in captured.take().items():
                if name == "tiles":
                    store(name, with_newlines(value[:, :1].expand(-1, size)))
                elif value.ndim == 3:
                    store(name, with_newlines(stock(value)))
                else:
                    rows = stock(value[..., None].float())[..., 0]
                    store(name, with_newlines(rows.to(value.dtype)))
            if frames:
                steps = frame_steps([(len(pooled) // videos, size)] * videos).view(videos, -1)
                store(PREVIOUS_FRAME, torch.nn.functional.pad(steps, (0, 1)).flatten())
            return pooled

        return pool

    return change


def _on_resampler(trunk: Any, captured: _Captured, store: Store, frames: bool) -> list[Handle]:
    """Pass the values of LLaVA-NeXT-Video's frames to `store`.

    Frames are pooled before the projector; what is captured per patch is averaged here.
    """

    def pooled(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
        size = math.isqrt(args[0].shape[1] // output.shape[1])
        captured.values = {
            name: means_of_squares(value, size) for name, value in captured.values.items()
        }
        captured.pooled = True

    def projected(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
        if not captured.pooled:
            return
        captured.pooled, videos = False, captured.videos
        for name, value in captured.take().items():
            store(name, value.flatten(0, 1))
        if frames:
            frames_of_one = len(output) // videos, output.shape[1]
            store(PREVIOUS_FRAME, frame_steps([frames_of_one] * videos))

    return [
        trunk.vision_resampler.register_forward_hook(pooled),
        trunk.multi_modal_projector.register_forward_hook(projected),
    ]
