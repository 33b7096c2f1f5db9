"""Choose what a run leaves open: the objective by the time it takes, the solver by its form."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf, isinf

from opsearch.formatting import format_duration
from opsearch.objectives import Maker
from opsearch.objectives.additive import require_individual
from opsearch.objectives.attention import Attention, require_recipes
from opsearch.objectives.joint import Joint
from opsearch.objectives.joint_coarse import CoarseJoint
from opsearch.problem.objective import Form
from opsearch.problem.solution import Solver, require_form
from opsearch.problem.spaces.base import Space
from opsearch.problem.spaces.operations import PER_OPERATION, LayerSpace
from opsearch.problem.spaces.recipes import RecipeSpace
from opsearch.registry import lookup, registered
from opsearch.runs.config import RunConfig
from opsearch.runs.effort import Planned
from opsearch.runs.setup import make_maker
from opsearch.runs.verify import require_proxy
from opsearch.solvers import SOLVERS
from opsearch.solvers.greedy import Greedy, require_operations
from opsearch.solvers.grid import Grid

_DEFAULT_SOLVER: dict[Form, str] = {
    "table": "grid",
    "separable": "ortools",
    "pairwise": "ortools",
    "blackbox": "local",
    "bounded": "bisection",
}


@dataclass(frozen=True)
class Choice:
    """The objective's maker, the solver, and the sentence that says why it was chosen."""

    maker: Maker
    solver: Solver
    reason: str = ""


def choose_planned(config: RunConfig, planned: Planned) -> Choice:
    """Fill in what the run leaves open, by what measuring in its space takes."""
    seconds = planned.joint_seconds
    coarse = planned.coarse_seconds if config.effort < seconds < inf else inf
    return choose(config, seconds, planned.space, coarse=coarse)


def choose(
    config: RunConfig,
    seconds: float,
    space: Space | None = None,
    lazy: bool = True,
    coarse: float = inf,
) -> Choice:
    """Fill in what the run leaves open.

    seconds: estimated time to measure every feasible policy; coarse: about how long that takes from
    coarse to fine. The joint objective is taken when one of them is within config.effort, the
    additive proxy otherwise; one who names joint, or searches a `space` without individual
    divergences, gets it from coarse to fine where measuring all is beyond config.effort and the
    space has depths to go from. lazy: joint may be measured on demand. Raises OpsearchError when
    the named objective cannot be had in the space, or the named solver cannot take it.
    """
    solver = lookup("solvers", config.solver, SOLVERS)() if config.solver else None
    name, reason = _objective(config, seconds, coarse, space, solver)
    if space is not None:
        _require_space(space, name, solver)
    require_recipes(name, config.space)
    unlisted = config.space in PER_OPERATION
    if name == "joint":
        on_demand = lazy and _on_demand(solver, unlisted)
        maker: Maker = Joint(on_demand)
        layered = space is None or bool(getattr(space, "layer_columns", ()))
        if not on_demand and seconds > config.effort and layered:
            maker = CoarseJoint()
            reason = f"objective joint from coarse to fine: {_effort(seconds, coarse, config)}"
    else:
        maker = make_maker(name, config)
    solver = solver or lookup("solvers", _DEFAULT_SOLVER[maker.form], SOLVERS)()
    every = [factory() for factory in registered("solvers", SOLVERS).values()]
    elsewhere = Grid if unlisted else Greedy
    require_form(maker, solver, [other for other in every if not isinstance(other, elsewhere)])
    if config.verify:
        require_proxy(maker)
    return Choice(maker, solver, reason)


def _on_demand(solver: Solver | None, unlisted: bool) -> bool:
    """Whether joint is measured point by point, and not beforehand.

    None of the points of a space too large to list can be measured beforehand.
    """
    if solver is None or not solver.forms & {"table", "blackbox"}:
        return unlisted
    return "blackbox" in solver.forms


def _require_space(space: Space, objective: str, solver: Solver | None) -> None:
    """Raise OpsearchError where the objective or the named solver cannot do with the space."""
    if objective in ("additive", "pairwise"):
        require_individual(space)
    if isinstance(space, LayerSpace) and isinstance(solver, Grid):
        space.refuse()
    if isinstance(solver, Greedy):
        require_operations(space)


def _objective(
    config: RunConfig, seconds: float, coarse: float, space: Space | None, solver: Solver | None
) -> tuple[str, str]:
    """The name of the objective, and why it was chosen where the run names none."""
    if config.objective is not None:
        return config.objective, ""
    if config.space == RecipeSpace.name:
        return (
            Attention.name,
            "objective attention, one forward of each sample: recipes has no other",
        )
    if config.verify:
        return "additive", "objective additive: --verify corrects a proxy"
    if solver and solver.forms == {"blackbox"}:
        return "joint", f"objective joint: solver {solver.name} asks point by point"
    proxy = space is None or space.parameters_act_alone
    if proxy and solver and "table" not in solver.forms:
        return "additive", f"objective additive: solver {solver.name} does not take joint"
    name = "joint" if min(seconds, coarse) <= config.effort or not proxy else "additive"
    return name, f"objective {name}: {_effort(seconds, coarse, config)}"


def _effort(seconds: float, coarse: float, config: RunConfig) -> str:
    """What measuring every feasible policy, or only some, takes beside what it may take."""
    if isinf(seconds):
        return "the policies of the space are too many to measure each"
    every = f"measuring every feasible policy would take about {format_duration(seconds)}"
    if seconds <= config.effort:
        return f"{every}, within --effort {config.effort:g}"
    told = f"{every}, more than --effort {config.effort:g}"
    if isinf(coarse):
        return told
    verdict = "within it" if coarse <= config.effort else "more as well"
    return f"{told}, and from coarse to fine about {format_duration(coarse)}, {verdict}"
