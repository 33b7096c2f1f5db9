"""opsearch/problem/spaces/__init__.py."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property, partial
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from opsearch.policy import builders
from opsearch.policy.counts import MLP, Counts, resolve_fraction
from opsearch.policy.policy import Policy
from opsearch.policy.ranker import RankerSpec
from opsearch.problem.spaces.base import N_V_8, N_V_16, Parameter, Space
from opsearch.problem.spaces.depth import (
    DepthSpace,
    __all__,
    _build_depth,
    _build_dop,
    _build_tokens,
    _depth,
    _shares,
    depth_space,
    dop_space,
    tokens_space,
)
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
