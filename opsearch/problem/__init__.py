"""The search problem, and all that authors of parts import.

from opsearch.problem import Problem, Solution, Status, solution_at
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from opsearch.costs.base import Cost, CostLabel, CostSettings
    from opsearch.policy.counts import KV, MLP, MODULES, Candidates, Counts, Q, live
    from opsearch.problem.budget import Budget
    from opsearch.problem.constraint import Constraint
    from opsearch.problem.objective import (
        KL_DECIMALS,
        KL_QUANTUM,
        Blackbox,
        Bounded,
        Form,
        Measure,
        Objective,
        Pairwise,
        Separable,
        SubsetMeasure,
        Table,
    )
    from opsearch.problem.objective_factory import (
        Adaptable,
        CountedProgress,
        ObjectiveFactory,
        ObjectiveSettings,
        Raceable,
        require_any_objective,
    )
    from opsearch.problem.problem import Problem
    from opsearch.problem.solution import (
        Limit,
        Solution,
        Solver,
        Status,
        TakesBounds,
        evaluations_within,
        infeasible,
        require_form,
        solution_at,
        solved,
        without_point,
    )
    from opsearch.problem.spaces.base import (
        ListedSpace,
        Parameter,
        Space,
        SpaceFactory,
        SpaceSettings,
        unpruned,
    )
    from opsearch.rankers.base import (
        DECODER_ATTENTION,
        AttentionView,
        DecoderRanker,
        Features,
        Prompt,
        Ranker,
        owners,
        ranking_from_scores,
    )

__all__ = [
    "DECODER_ATTENTION",
    "KL_DECIMALS",
    "KL_QUANTUM",
    "KV",
    "MLP",
    "MODULES",
    "Adaptable",
    "AttentionView",
    "Blackbox",
    "Bounded",
    "Budget",
    "Candidates",
    "Constraint",
    "Cost",
    "CostLabel",
    "CostSettings",
    "CountedProgress",
    "Counts",
    "DecoderRanker",
    "Features",
    "Form",
    "Limit",
    "ListedSpace",
    "Measure",
    "Objective",
    "ObjectiveFactory",
    "ObjectiveSettings",
    "Pairwise",
    "Parameter",
    "Problem",
    "Prompt",
    "Q",
    "Raceable",
    "Ranker",
    "Separable",
    "Solution",
    "Solver",
    "Space",
    "SpaceFactory",
    "SpaceSettings",
    "Status",
    "SubsetMeasure",
    "Table",
    "TakesBounds",
    "evaluations_within",
    "infeasible",
    "live",
    "owners",
    "ranking_from_scores",
    "require_any_objective",
    "require_form",
    "solution_at",
    "solved",
    "unpruned",
    "without_point",
]

_NAMES = {
    "opsearch.costs.base": "Cost CostLabel CostSettings",
    "opsearch.policy.counts": "KV MLP MODULES Q Candidates Counts live",
    "opsearch.problem.budget": "Budget",
    "opsearch.problem.constraint": "Constraint",
    "opsearch.problem.objective": (
        "KL_DECIMALS KL_QUANTUM Blackbox Bounded Form Measure Objective Pairwise Separable "
        "SubsetMeasure Table"
    ),
    "opsearch.problem.objective_factory": (
        "Adaptable CountedProgress ObjectiveFactory ObjectiveSettings Raceable "
        "require_any_objective"
    ),
    "opsearch.problem.problem": "Problem",
    "opsearch.problem.solution": (
        "Limit Solution Solver Status TakesBounds evaluations_within infeasible require_form "
        "solution_at solved without_point"
    ),
    "opsearch.problem.spaces.base": (
        "ListedSpace Parameter Space SpaceFactory SpaceSettings unpruned"
    ),
    "opsearch.rankers.base": (
        "DECODER_ATTENTION AttentionView DecoderRanker Features Prompt Ranker owners "
        "ranking_from_scores"
    ),
}
_HOMES = {name: home for home, names in _NAMES.items() for name in names.split()}


def __getattr__(name: str) -> Any:
    """Import a name on first use, so that importing one module does not import all."""
    if name not in _HOMES:
        raise AttributeError(f"module 'opsearch.problem' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
