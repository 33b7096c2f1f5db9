"""Resolve a RunConfig: its strings become typed parts here, and nothing below reads a string again.

Neither a model nor data is loaded.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from fractions import Fraction
from typing import TYPE_CHECKING

from opsearch import registry
from opsearch.costs.base import Cost, CostSettings, SampleSizes
from opsearch.costs.shape import Shape
from opsearch.data.files import load_file
from opsearch.data.lmms import PREFIX
from opsearch.errors import OpsearchError, echo, shortened
from opsearch.models.spec import ModelSpec
from opsearch.policy.counts import MODULES, parse_share
from opsearch.policy.ranker import RankerSpec, parse_ranker
from opsearch.problem.budget import Budget, constraint
from opsearch.problem.constraint import Constraint
from opsearch.problem.objective_factory import ObjectiveFactory, ObjectiveSettings, Pairs
from opsearch.problem.solution import Solver
from opsearch.problem.spaces.base import N_V_8, N_V_16, Operation, Space, SpaceSettings
from opsearch.rankers import known_ranker, make_ranker
from opsearch.runs.config import AS_OBJECT, IN_MEMORY, RunConfig
from opsearch.runs.effort import LEAST_EFFORT

if TYPE_CHECKING:
    from opsearch.costs.latency_table import LatencyTable

_PAIRS: dict[str, Pairs] = {"adjacent": "adjacent", "all": "all"}
_N_V = {"16": N_V_16, "8": N_V_8}
FULL_SIZE = (Fraction(1),)
"""The image settings of a run that has none."""


@dataclass(frozen=True, kw_only=True)
class SearchSettings:
    """A search in typed parts; it still lacks the samples and their measurements.

    Attributes:
        model: The model that is measured.
        space: The space that is searched.
        space_settings: Settings from which spaces are built, also those of a comparison.
        budgets: At most one for each cost.
        images: Image settings to search among, as shares of the visual tokens that the processor
            makes by itself, from the largest on.
        objective: None: chosen by the time that measuring takes.
        solver: None: chosen by the form of the objective.
        proxy: Settings of the additive and the pairwise proxy.
        verify: Policies that a proxy proposes at a time to be measured; 0: none.
        evaluations: Most policies that are measured on demand; None: the solver's default.
        effort: Seconds of measurement that the joint objective may take; the least ones until the
            default is known, which depends on the samples.
        complete: Measure every feasible policy on all samples, also those that cannot be the best.
        positions: Answer tokens that are compared.
        memory: Bytes for the states of one pass; None: by what the device has.
        answer_tokens: Maximum number of tokens per answer; None: by the accepted answers.
        seed: Draws the samples and seeds the solver.
    """

    model: ModelSpec
    space: Space
    space_settings: SpaceSettings
    budgets: tuple[Budget, ...]
    images: tuple[Fraction, ...]
    objective: ObjectiveFactory | None
    solver: Solver | None
    proxy: ObjectiveSettings
    verify: int
    evaluations: int | None
    effort: float
    complete: bool
    positions: int
    memory: int | None
    answer_tokens: int | None
    seed: int

    @property
    def timed(self) -> bool:
        """True if a budget is of time, so that a latency table is needed."""
        return any(budget.cost_class.timed for budget in self.budgets)

    def require_full_size(self) -> None:
        """Raise OpsearchError if image settings are searched, which `run` and `search` do alone."""
        if self.images != FULL_SIZE:
            given = ",".join(map(str, self.images))
            raise OpsearchError(
                f"--images {given} is searched by `opsearch run` and opsearch.search alone; all "
                "other commands, and --dry-run, read images at full size: leave it out, or give "
                "them a run without it"
            )

    def in_space(self, name: str, ranker: RankerSpec, stages: int) -> SearchSettings:
        """Return these settings for another space, less what that space does not read."""
        options = registry.lookup("spaces", registry.split_spec("spaces", name)[0]).options
        settings = replace(
            self.space_settings,
            ranker=ranker,
            stages=stages,
            keep=self.space_settings.keep if "keep" in options else None,
            tie=self.space_settings.tie and "tie" in options,
            groups=self.space_settings.groups if "groups" in options else None,
        )
        return replace(self, space=make_space(name, settings), space_settings=settings)


def check_named(config: RunConfig) -> None:
    """Raise OpsearchError for names in the settings that nothing has, before torch is loaded."""
    _require_name(config.space)
    registry.lookup("spaces", registry.split_spec("spaces", config.space)[0])
    if config.ranker:
        known_ranker(parse_ranker(config.ranker))
    proxy = ObjectiveSettings(points=config.points, pairs=parse_pairs(config.pairs))
    if config.objective:
        make_objective(config.objective, proxy)
    if config.solver:
        make_solver(config.solver)
    parse_budgets(config.budget)
    config.model_spec.check_named()
    data = config.data
    if data is None or data.exists() or "*" in data.name or str(data) == IN_MEMORY:
        return
    if not str(data).startswith(PREFIX):
        load_file(data)  # which says what is wrong with the path


def resolve(config: RunConfig, layers: int, ranker: RankerSpec) -> SearchSettings:
    """Return the typed settings of a run.

    Args:
        config: The settings as strings.
        layers: Number of decoder layers of the model.
        ranker: The model family's, for a run that names none.

    Raises:
        OpsearchError: A name is unknown, or settings do not go together; names the option.
    """
    spec = parse_ranker(config.ranker) if config.ranker else _default_ranker(config, ranker)
    n_v = _N_V[config.n_v] if isinstance(config.n_v, str) else _shares(config.n_v)
    keep = parse_keep(config.keep, layers) if config.keep else None
    settings = SpaceSettings(
        num_layers=layers,
        ranker=spec,
        n_v=n_v,
        kv=config.kv,
        stages=config.stages,
        keep=keep,
        tie=config.tie is not None,
        groups=_shares(config.groups) if config.groups else None,
    )
    proxy = ObjectiveSettings(
        points=config.points, pairs=parse_pairs(config.pairs), seed=config.seed
    )
    return SearchSettings(
        model=config.model_spec,
        space=make_space(config.space, settings),
        space_settings=settings,
        budgets=parse_budgets(config.budget),
        images=_shares(config.images),
        objective=make_objective(config.objective, proxy) if config.objective else None,
        solver=make_solver(config.solver) if config.solver else None,
        proxy=proxy,
        verify=config.verify,
        evaluations=config.evaluations,
        effort=LEAST_EFFORT if config.effort is None else config.effort,
        complete=config.complete,
        positions=config.positions,
        memory=config.memory_bytes,
        answer_tokens=config.answer_tokens,
        seed=config.seed,
    )


def _default_ranker(config: RunConfig, of_family: RankerSpec) -> RankerSpec:
    """Return the family's ranker, or for space `shares` one that is nested and fits any family."""
    if config.searches_shares and not make_ranker(of_family).nested:
        return RankerSpec("divprune")
    return of_family


def _require_name(space: str) -> None:
    """Raise OpsearchError for the space of a run that was given as an object."""
    if space.endswith(AS_OBJECT):
        raise OpsearchError(
            f"this run searched a space {echo(space.removesuffix(AS_OBJECT))} that was given as an "
            "object, and a run folder keeps spaces by name only; search again with the object, or "
            "with the name of a space"
        )


def make_space(text: str, settings: SpaceSettings) -> Space:
    """Return the space of this name, with parameters of its own where `text` gives some.

    Raises:
        OpsearchError: The space does not exist, settings do not go with it, or the run's space was
            an object.
    """
    _require_name(text)
    name, params = registry.split_spec("spaces", text)
    factory = registry.lookup("spaces", name)
    given = {
        "keep": None if settings.keep is None else _keep_text(settings.keep),
        "tie": "q=kv" if settings.tie else None,
        "groups": None if settings.groups is None else ",".join(map(str, settings.groups)),
    }
    for option, value in given.items():
        if value is not None and option not in factory.options:
            fitting = [n for n, s in registry.registered("spaces").items() if option in s.options]
            raise OpsearchError(
                f"--{option} {value} requires --space {' or '.join(fitting)}, not {echo(name)}; "
                f"change the space, or remove {option} from the options or run.yaml"
            )
    ranker = settings.ranker
    if ranker is not None and ranker.inside and not factory.ranks_inside:
        raise OpsearchError(
            f"ranker {shortened(ranker)} acts inside the decoder, and policies of space "
            f"{echo(name)} rank only before it; add --space stages, or use one of "
            f"{', '.join(registry.names('rankers'))}"
        )
    space: Space = registry.make("spaces", name, factory.from_settings, settings, **params)
    return space


def check_nested(space: Space, ranker: RankerSpec | None) -> None:
    """Raise OpsearchError where policies keep several counts of an order that depends on the count.

    Args:
        space: The space that is searched.
        ranker: Ranker of its policies.
    """
    if ranker is None or ranker.inside or space.most_counts <= 1:
        return
    if not make_ranker(ranker).nested:
        fewer = "two groups, e.g. --space operations --groups 1/4,1"
        fewer = "--stages 1" if space.per_operation is None else fewer
        raise OpsearchError(
            f"ranker {shortened(ranker)} gives another order for each count, but policies of "
            f"space {space.name} keep up to {space.most_counts} different counts; use {fewer}, or "
            "a nested ranker such as cls, divprune or random"
        )


def parse_keep(text: str, layers: int) -> frozenset[Operation]:
    """Return the (layer, module) pairs of `0,1:mlp`: all of layer 0, and the MLP of layer 1.

    Raises:
        OpsearchError: A part is no layer or module of the decoder.
    """
    kept = set()
    for part in text.split(","):
        layer, _, name = part.strip().partition(":")
        number = int(layer) if layer.isdecimal() and len(layer) <= 12 else layers
        if number >= layers or name not in ("", *MODULES):
            raise OpsearchError(
                f"--keep {shortened(text)}: {echo(part.strip())} is not an operation; write a "
                f"layer from 0 to {layers - 1}, or one with {', '.join(MODULES)}, e.g. --keep "
                "0,1:mlp"
            )
        modules = [MODULES.index(name)] if name else range(len(MODULES))
        kept |= {(number, module) for module in modules}
    return frozenset(kept)


def _keep_text(kept: frozenset[Operation]) -> str:
    """Return operations as `parse_keep` reads them."""
    whole = {layer for layer, _ in kept if all((layer, m) in kept for m in range(len(MODULES)))}
    parts = (f"{n}" if n in whole else f"{n}:{MODULES[m]}" for n, m in sorted(kept))
    return ",".join(dict.fromkeys(parts))


def _shares(texts: Sequence[str]) -> tuple[Fraction, ...]:
    """Return shares that `RunConfig` accepts."""
    return tuple(map(parse_share, texts))


def parse_pairs(text: str) -> Pairs:
    """Return the pairs that `RunConfig` accepts: a rule, or a number of pairs to draw."""
    return _PAIRS[text] if text in _PAIRS else int(text)


def parse_budgets(texts: Sequence[str | Budget]) -> tuple[Budget, ...]:
    """Return the budgets of a run.

    Raises:
        OpsearchError: A text is no budget, a cost is unknown, or two budgets limit the same cost.
    """
    budgets = tuple(Budget.parse(text) if isinstance(text, str) else text for text in texts)
    costs = [budget.cost for budget in budgets]
    twice = sorted({cost for cost in costs if costs.count(cost) > 1})
    if twice:
        given = ", ".join(budget.text for budget in budgets)
        raise OpsearchError(f"{twice[0]} has more than one budget ({given}); give one")
    return budgets


def make_objective(text: str, settings: ObjectiveSettings) -> ObjectiveFactory:
    """Return the factory of an objective by name, with parameters where `text` gives some."""
    name, params = registry.split_spec("objectives", text)
    factory = registry.lookup("objectives", name)
    made: ObjectiveFactory = registry.make(
        "objectives", name, factory.from_settings, settings, **params
    )
    return made


def make_solver(text: str) -> Solver:
    """Return a solver by name, with parameters where `text` gives some."""
    name, params = registry.split_spec("solvers", text)
    solver: Solver = registry.make("solvers", name, registry.lookup("solvers", name), **params)
    require_start(solver, registry.described("solvers", name))
    return solver


def require_start(solver: Solver, described: str) -> None:
    """Raise OpsearchError if a solver takes initial points but has no field for them."""
    known = {field.name for field in fields(solver)} if is_dataclass(solver) else set[str]()
    if solver.takes_start and "start" not in known:
        raise OpsearchError(
            f"{described} takes a start, but is no dataclass with a field `start`; add it, or set "
            "takes_start to False"
        )


def make_cost(name: str, shape: Shape, table: LatencyTable | None = None) -> Cost:
    """Return a cost by name.

    Args:
        name: A registered cost.
        shape: The decoder's dimensions.
        table: Latency table; OpsearchError if a cost of time lacks it.
    """
    factory = registry.lookup("costs", name)
    cost: Cost = registry.make("costs", name, factory.from_settings, CostSettings(shape, table))
    return cost


def make_constraints(
    budgets: Sequence[Budget],
    shape: Shape,
    space: Space,
    sizes: SampleSizes,
    table: LatencyTable | None = None,
) -> tuple[Constraint, ...]:
    """Return the budgets as limits over samples of these sizes."""
    return tuple(
        constraint(budget, make_cost(budget.cost, shape, table), space, sizes) for budget in budgets
    )
