"""Search spaces by name."""

from __future__ import annotations

from collections.abc import Callable

from opsearch.problem.spaces.base import Space
from opsearch.problem.spaces.depth import depth_space, dop_space, tokens_space
from opsearch.problem.spaces.operations import layers_space, operations_space
from opsearch.problem.spaces.recipes import RecipeSpace
from opsearch.problem.spaces.stages import stages_space

SPACES: dict[str, Callable[..., Space]] = {
    "tokens": tokens_space,
    "dop": dop_space,
    "depth": depth_space,
    "stages": stages_space,
    "layers": layers_space,
    "operations": operations_space,
    "recipes": RecipeSpace,
}
