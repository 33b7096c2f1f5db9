"""The search problem: what authors of solvers, objectives, spaces and costs import.

from opsearch.problem import Problem, Solution, Status, solution_at
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from opsearch.costs.base import CostLabel, CostSettings
    from opsearch.problem.budget import Budget
    from opsearch.problem.constraint import Constraint
    from opsearch.problem.objective import (
        Blackbox,
        Bounded,
        Form,
        Measure,
        Pairwise,
        Separable,
        Table,
    )
    from opsearch.problem.problem import Problem
    from opsearch.problem.solution import (
        Limit,
        Solution,
        Status,
        infeasible,
        require_form,
        solution_at,
        solved,
    )
    from opsearch.problem.spaces.base import ListedSpace, Parameter, Space, SpaceSettings

__all__ = [
    "Blackbox",
    "Bounded",
    "Budget",
    "Constraint",
    "CostLabel",
    "CostSettings",
    "Form",
    "Limit",
    "ListedSpace",
    "Measure",
    "Pairwise",
    "Parameter",
    "Problem",
    "Separable",
    "Solution",
    "Space",
    "SpaceSettings",
    "Status",
    "Table",
    "infeasible",
    "require_form",
    "solution_at",
    "solved",
]

_OBJECTIVE = ("Blackbox", "Bounded", "Form", "Measure", "Pairwise", "Separable", "Table")
_SOLUTION = ("Limit", "Solution", "Status", "infeasible", "require_form", "solution_at", "solved")
_SPACE = ("ListedSpace", "Parameter", "Space", "SpaceSettings")
_HOMES = {
    "Budget": "opsearch.problem.budget",
    "Constraint": "opsearch.problem.constraint",
    "CostLabel": "opsearch.costs.base",
    "CostSettings": "opsearch.costs.base",
    "Problem": "opsearch.problem.problem",
    **dict.fromkeys(_OBJECTIVE, "opsearch.problem.objective"),
    **dict.fromkeys(_SOLUTION, "opsearch.problem.solution"),
    **dict.fromkeys(_SPACE, "opsearch.problem.spaces.base"),
}


def __getattr__(name: str) -> Any:
    """Import a name on first use, so that importing one module does not import all."""
    if name not in _HOMES:
        raise AttributeError(f"module 'opsearch.problem' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
