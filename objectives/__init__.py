"""Objectives: the effect of a policy on the answers, as a number that solvers minimise.

The contract is `opsearch.problem.ObjectiveFactory`. A new objective is a file with one class, and a
line here.
"""

from __future__ import annotations

from typing import Any

from opsearch.objectives.additive import Additive
from opsearch.objectives.attention import Attention
from opsearch.objectives.joint import Joint
from opsearch.objectives.pairwise import MeasuredPairs
from opsearch.objectives.taylor import Taylor

OBJECTIVES: dict[str, type[Any]] = {
    "additive": Additive,
    "joint": Joint,
    "pairwise": MeasuredPairs,
    "taylor": Taylor,
    "attention": Attention,
}
