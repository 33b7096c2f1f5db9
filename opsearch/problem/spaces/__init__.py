"""Search spaces: named integer parameters whose points decode to policies."""

from __future__ import annotations

from opsearch.problem.spaces.base import SpaceFactory
from opsearch.problem.spaces.depth import Depth, Dop, Tokens
from opsearch.problem.spaces.operations import Layers, Operations, Shares
from opsearch.problem.spaces.recipes import RecipeSpace
from opsearch.problem.spaces.stages import StageSpace

SPACES: dict[str, SpaceFactory] = {
    "tokens": Tokens(),
    "dop": Dop(),
    "depth": Depth(),
    "stages": StageSpace,
    "layers": Layers(),
    "operations": Operations(),
    "shares": Shares(),
    "recipes": RecipeSpace,
}
