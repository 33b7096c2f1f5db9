"""Ranker inputs captured in the vision tower, of one prefill's images and of its videos.

The tower runs once for all images of a batch and once for all videos. A prompt may hold both, in
any order, so that values of two runs are merged by the placeholders of the prompt.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from opsearch.models.families import ModelFamily
from opsearch.models.pruned.ranking import repeat_for_beams
from opsearch.rankers.base import Prompt

_ATTACHED = "opsearch_captured"


@dataclass(eq=False)
class Captures:
    """Values of a prefill's runs of the vision tower.

    Attributes:
        runs: Values of the images' run, then of the videos'; only those that ran.
        videos: Mask of the videos' tokens, bool[B, S], if there are both; else None.
        in_prefill: True if the trunk runs, so that a further run belongs to the same prefill.
    """

    runs: list[dict[str, Tensor]] = field(default_factory=list)
    videos: Tensor | None = None
    in_prefill: bool = False

    @classmethod
    def of_prefill(cls, model: Any, family: ModelFamily, kwargs: dict[str, Any]) -> Captures:
        """Return the captures of a prefill with these arguments of the trunk.

        generate() runs the tower before the trunk; a plain forward runs it inside.
        """
        encoded = kwargs.get("mm_encoder_outputs") or {}
        outputs = [encoded.get(kind) for kind in ("image", "video")]
        pixels = [kwargs.get(name) for name in ("pixel_values", "pixel_values_videos")]
        given = [
            any(each is not None for each in pair) for pair in zip(outputs, pixels, strict=True)
        ]
        videos = None
        if all(given):
            token = getattr(model.config, family.visual_tokens[-1])
            videos = torch.eq(kwargs["input_ids"], token)
        attached = [getattr(output, _ATTACHED, None) for output in outputs]
        return cls([values for values in attached if values is not None], videos, in_prefill=True)

    def attach(self, output: Any) -> None:
        """Attach the latest run's values to the output of the tower."""
        output[_ATTACHED] = self.runs[-1]

    def merged(self, prompt: Prompt) -> dict[str, Tensor]:
        """Return the values of all visual tokens, repeated where generate() repeats samples."""
        if self.videos is None or len(self.runs) < 2:
            runs = self.runs[-1:]
            return {k: repeat_for_beams(v, prompt.n_visual) for run in runs for k, v in run.items()}
        images, videos = self.runs
        of_videos = self.videos.sum(1).tolist()
        of_images = [n - other for n, other in zip(prompt.n_visual, of_videos, strict=True)]
        kinds = self.videos[prompt.visual]
        return {
            name: _interleaved(
                repeat_for_beams(images[name], of_images),
                repeat_for_beams(_behind(name, videos[name], images[name]), of_videos),
                kinds,
            )
            for name in images.keys() & videos.keys()
        }


def _behind(name: str, value: Tensor, images: Tensor) -> Tensor:
    """Renumber the tiles of videos to follow those of images; keep other values."""
    return value + images.max() + 1 if name == "tiles" else value


def _interleaved(images: Tensor, videos: Tensor, is_video: Tensor) -> Tensor:
    """Return the values of all visual tokens in the order of the prompts."""
    is_video = is_video.to(images.device)
    result = images.new_empty(len(is_video), *images.shape[1:])
    result[is_video], result[~is_video] = videos.to(images), images
    return result
