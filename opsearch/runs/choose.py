"""Choose what a run leaves open: the objective by the time it takes, the solver by its form."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import inf, isinf

from opsearch import registry
from opsearch.errors import OpsearchError
from opsearch.formatting import format_duration
from opsearch.problem.objective import PROXIES, Form
from opsearch.problem.objective_factory import Adaptable, ObjectiveFactory, Raceable
from opsearch.problem.solution import Solver, TakesBounds, require_form
from opsearch.problem.spaces.base import Space
from opsearch.problem.spaces.operations import is_gradual
from opsearch.runs.effort import EffortEstimate
from opsearch.runs.setup import SearchSettings, make_objective, make_solver, require_start
from opsearch.runs.verify import require_proxy
from opsearch.solvers.gradient import GradientDescent

_DEFAULT_SOLVER: dict[Form, str] = {
    "table": "grid",
    "separable": "ortools",
    "pairwise": "ortools",
    "blackbox": "local",
    "bounded": "bisection",
}


@dataclass(frozen=True)
class SearchChoice:
    """The objective and the solver of a search.

    Attributes:
        objective: Factory of the objective.
        solver: The solver.
        reason: Why the objective was chosen; empty where the user named it.
        races: Points that cannot be the best are left out of the objective's table.
    """

    objective: ObjectiveFactory
    solver: Solver
    reason: str = ""
    races: bool = False


def choose_by_estimate(settings: SearchSettings, estimate: EffortEstimate) -> SearchChoice:
    """Return the choice, given the estimated measurement work."""
    seconds = estimate.raced_seconds if _may_race(settings) else estimate.joint_seconds
    seconds *= estimate.parts
    coarse = inf
    if settings.effort < seconds < inf:
        coarse = estimate.parts * estimate.coarse_seconds
    return choose(settings, seconds, coarse=coarse)


def with_effort(
    settings: SearchSettings, effort: float | None, estimate: EffortEstimate
) -> SearchSettings:
    """Return settings with this effort in seconds; None: the default for the model and device."""
    return replace(settings, effort=estimate.default_effort if effort is None else effort)


def choose(
    settings: SearchSettings, seconds: float, lazy: bool = True, coarse: float = inf
) -> SearchChoice:
    """Return the objective and the solver of a search.

    The joint objective is chosen when measuring it takes at most `settings.effort` seconds, in full
    or from coarse to fine, and the additive proxy otherwise. A user who names joint, or searches a
    space without individual divergences, gets it from coarse to fine where measuring everything
    takes longer and the space has depths to go from.

    Args:
        settings: The search; names may be left open.
        seconds: Estimated time to find the best of all feasible policies, by racing or by measuring
            each completely.
        lazy: True if joint may be measured on demand.
        coarse: Estimated time from coarse to fine; infinite where that cannot be had.

    Raises:
        OpsearchError: The objective does not exist in the space, or the solver cannot take either.
    """
    space, solver = settings.space, settings.solver
    objective, reason = _objective(settings, seconds, coarse)
    objective.require(space)
    if isinstance(objective, Adaptable):
        on_demand = lazy and _on_demand(solver, space)
        whole = objective
        objective = whole.adapted(space, on_demand=on_demand, coarse=seconds > settings.effort)
        if objective.per_budget and not whole.per_budget:
            words = _effort_words(settings, seconds, coarse)
            reason = f"objective {objective.name} from coarse to fine: {words}"
    solver = solver or make_solver(_default_solver(objective.form, space))
    require_start(solver, f"solver {solver.name!r}")
    if objective.form not in solver.forms:
        fitting = _fitting_objectives(settings, solver, lazy)
        require_form(objective, solver, _fitting_solvers(space), fitting)
    solver.require(space)
    if is_gradual(space):
        _require_few(space, objective, solver)
    if settings.verify:
        require_proxy(objective)
    return SearchChoice(objective, solver, reason, races(settings, objective, solver))


def _default_solver(form: Form, space: Space) -> str:
    """Return the name of the solver of an objective of this form."""
    if form == "blackbox" and is_gradual(space):
        return GradientDescent.name
    return _DEFAULT_SOLVER[form]


def _require_few(space: Space, objective: ObjectiveFactory, solver: Solver) -> None:
    """Raise OpsearchError if the value of every share alone would be measured."""
    if objective.form in PROXIES:
        asked = f"objective {objective.name!r} adds up"
    elif solver.takes_start:
        asked = f"solver {solver.name!r} starts from"
    else:
        return
    alone = sum(len(parameter.values) for parameter in space.parameters)
    raise OpsearchError(
        f"{asked} the divergences of each share alone, and space {space.name!r} has {alone:,} of "
        f"them to measure on every sample; use --solver {GradientDescent.name} there, or --space "
        "operations"
    )


def _may_race(settings: SearchSettings) -> bool:
    """Return whether joint, if chosen, leaves out points that cannot be the best."""
    objective, solver = settings.objective, settings.solver
    solver = solver or make_solver(_DEFAULT_SOLVER["table"])
    return races(settings, objective or make_objective("joint", settings.proxy), solver)


def races(settings: SearchSettings, objective: ObjectiveFactory, solver: Solver) -> bool:
    """Return whether points that cannot be the best are left out of the objective's table."""
    bounded = isinstance(solver, TakesBounds) and solver.takes_bounds
    table = objective.form == "table" and isinstance(objective, Raceable)
    return bounded and table and not settings.complete


def _fitting_solvers(space: Space) -> list[Solver]:
    """Return the solvers that can search the space."""
    found = []
    for name in registry.names("solvers"):
        try:
            solver = make_solver(name)
            solver.require(space)
        except OpsearchError:
            continue
        found.append(solver)
    return found


def _fitting_objectives(settings: SearchSettings, solver: Solver, lazy: bool) -> list[str]:
    """Return the names of the objectives of the space that the solver accepts."""
    space, found = settings.space, []
    for name in registry.names("objectives"):
        try:
            objective = make_objective(name, settings.proxy)
            objective.require(space)
            if isinstance(objective, Adaptable):
                on_demand = lazy and _on_demand(solver, space)
                objective = objective.adapted(space, on_demand=on_demand, coarse=False)
            measured = space.listed or objective.form != "table"
        except OpsearchError:
            continue
        if measured and objective.form in solver.forms:
            found.append(name)
    return found


def unmeasured_hint(settings: SearchSettings) -> str:
    """Return the objectives to use where joint cannot be measured on demand, as an option."""
    summing = make_solver(_DEFAULT_SOLVER["separable"])
    solvers = (settings.solver or summing, summing)
    listed = (_fitting_objectives(settings, solver, lazy=False) for solver in solvers)
    fitting: list[str] = next(filter(None, listed), [])
    return f", or --objective {' or '.join(fitting)}" if fitting else ""


def _on_demand(solver: Solver | None, space: Space) -> bool:
    """Return whether joint is measured point by point instead of beforehand.

    No point of a space too large to list can be measured beforehand.
    """
    if solver is None or not solver.forms & {"table", "blackbox"}:
        return not space.listed
    return "blackbox" in solver.forms


def _objective(
    settings: SearchSettings, seconds: float, coarse: float
) -> tuple[ObjectiveFactory, str]:
    """Return the objective, and why it was chosen where the user named none."""
    if settings.objective is not None:
        return settings.objective, ""
    name, reason = _objective_name(settings, seconds, coarse)
    return make_objective(name, settings.proxy), f"objective {name}{reason}"


def _objective_name(settings: SearchSettings, seconds: float, coarse: float) -> tuple[str, str]:
    space, solver, effort = settings.space, settings.solver, settings.effort
    if space.only_objective is not None:
        return space.only_objective, f": space {space.name} has no other"
    if solver is None and is_gradual(space) and not settings.verify:
        return "joint", ": its gradient moves all shares at once"
    if settings.verify:
        return "additive", ": --verify corrects a proxy"
    if solver and solver.forms == {"blackbox"}:
        return "joint", f": solver {solver.name} measures point by point"
    proxy = space.parameters_act_alone
    if proxy and solver and "table" not in solver.forms:
        return "additive", f": solver {solver.name} does not take joint"
    name = "joint" if min(seconds, coarse) <= effort or not proxy else "additive"
    return name, f": {_effort_words(settings, seconds, coarse)}"


def _effort_words(settings: SearchSettings, seconds: float, coarse: float) -> str:
    """Return what measuring takes, compared with what it may take."""
    if isinf(seconds):
        return "the space has too many policies to measure each"
    effort, how = settings.effort, "racing all feasible policies"
    if not _may_race(settings):
        how = "measuring every feasible policy"
    every = f"{how} takes about {format_duration(seconds)}"
    if seconds <= effort:
        return f"{every}, within --effort {effort:g}"
    more = f"{every}, more than --effort {effort:g}"
    if isinf(coarse):
        return more
    verdict = "within it" if coarse <= effort else "more as well"
    return f"{more}, and from coarse to fine about {format_duration(coarse)}, {verdict}"
