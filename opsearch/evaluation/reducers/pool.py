"""Average pooling of an image's token grid to a coarser grid.

The coarse grid uses almost all allowed tokens and is as close to a square as possible. Its token
(i, j) is the mean of the rows floor(i H / h) to ceil((i + 1) H / h), and likewise for columns, so
neighbouring windows overlap where h does not divide H. The output of the projector is pooled.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from math import isqrt
from typing import TYPE_CHECKING, Any, ClassVar

from opsearch.errors import ModelError, echo

# Imported in the functions that reduce, so that `opsearch list` needs no torch.
if TYPE_CHECKING:
    from torch import Tensor, nn

    from opsearch.models.encoding import Sample

# Families whose projector returns each image or tile as one square grid, in token order.
_SQUARES = ("internvl", "llava")
_PROJECTOR = "model.multi_modal_projector"


class Pool:
    """Average pooling of the tokens of an image, for LLaVA-1.5 and InternVL3."""

    granularity: ClassVar[str] = "its grids have whole rows and columns"

    def __init__(self, config: Any, processor: Any) -> None:
        from opsearch.models.families import family_for

        if config.model_type not in _SQUARES:
            raise ModelError(
                f"pool does not support family {echo(config.model_type)}, whose images do not "
                "reach the decoder as square grids of tokens; use a model of "
                f"{' or '.join(_SQUARES)}"
            )
        self.config, self.family = config, family_for(config.model_type)

    def reduced(self, samples: Sequence[Sample], tokens: int) -> list[Sample]:
        """Return the samples with one placeholder per token of the coarse grid."""
        return [self._reduced(sample, tokens) for sample in samples]

    def _reduced(self, sample: Sample, tokens: int) -> Sample:
        import torch

        ids = sample.inputs["input_ids"]
        squares = len(sample.inputs["pixel_values"]) if sample.n_visual else 0
        if not squares:
            return sample
        height, width = coarse_grid(tokens, sample.n_visual // squares)
        positions = self.family.visual_positions(self.config, ids)[0].nonzero()[:, 0]
        kept = torch.ones(ids.shape[1], dtype=torch.bool)
        kept[positions.view(squares, -1)[:, height * width :]] = False
        inputs = {
            name: tensor[:, kept] if tensor.shape == ids.shape else tensor
            for name, tensor in sample.inputs.items()
        }
        return replace(sample, inputs=inputs, n_visual=squares * height * width)

    @contextmanager
    def applied(self, model: Any, tokens: int) -> Iterator[None]:
        """Pool the output of the projector inside the block."""

        def hook(module: nn.Module, args: Any, features: Tensor) -> Tensor:
            return pooled(features, tokens)

        handle = model.get_submodule(_PROJECTOR).register_forward_hook(hook)
        try:
            yield
        finally:
            handle.remove()


def coarse_grid(tokens: int, square: int) -> tuple[int, int]:
    """Return the height and width of the coarse grid, never wider than high.

    Among the grids with at least 95% of the tokens of the largest one, it is the closest to a
    square: 12 x 11 for 138 tokens, not 23 x 6.

    Args:
        tokens: Maximum number of tokens, at least 1.
        square: Number of tokens of the original square grid.
    """
    side = isqrt(square)
    grids = [(h, w) for w in range(1, side + 1) for h in range(w, side + 1) if h * w <= tokens]
    most = max(h * w for h, w in grids)
    large = [(h, w) for h, w in grids if 20 * h * w >= 19 * most]
    return min(large, key=lambda grid: (grid[0] / grid[1], -grid[0] * grid[1]))


def pooled(features: Tensor, tokens: int) -> Tensor:
    """Average square grids [B, N, D] over the coarse grid, [B, h w, D] in raster order."""
    from torch.nn.functional import adaptive_avg_pool2d

    count, square, _ = features.shape
    side = isqrt(square)
    grid = features.transpose(1, 2).reshape(count, -1, side, side)
    return adaptive_avg_pool2d(grid, coarse_grid(tokens, square)).flatten(2).transpose(1, 2)
