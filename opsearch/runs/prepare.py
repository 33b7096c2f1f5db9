"""Prepare a run: samples, space, costs and budgets, all that is known before weights are loaded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from opsearch import registry
from opsearch.costs.latency_table import LatencyTable
from opsearch.costs.shape import Shape
from opsearch.data.groups import Seen
from opsearch.data.item import Item, all_answered
from opsearch.errors import OpsearchError
from opsearch.formatting import counted, format_duration
from opsearch.measure.planning.batches import group_samples
from opsearch.models.encoding import Sample, encode
from opsearch.models.families import family_for
from opsearch.models.positions import check_answer_positions, check_positions
from opsearch.policy.images import ImageSetting
from opsearch.policy.ranker import RankerSpec
from opsearch.problem.budget import Budget
from opsearch.problem.constraint import Constraint, check_budget
from opsearch.problem.spaces.base import Space
from opsearch.progress import Progress
from opsearch.rankers import known_ranker, make_ranker
from opsearch.runs.choose import SearchChoice, choose, choose_by_estimate, with_effort
from opsearch.runs.config import AS_OBJECT, RunConfig
from opsearch.runs.effort import LEAST_EFFORT, EffortEstimate, planned_memory
from opsearch.runs.latency_file import read_table
from opsearch.runs.run_folder import RunFolder
from opsearch.runs.samples import run_items
from opsearch.runs.setup import (
    FULL_SIZE,
    SearchSettings,
    check_nested,
    make_constraints,
    resolve,
)
from opsearch.timing.latency_table import fit_latency, machine_of, typical_pictures


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """Everything a search needs except measurements.

    Attributes:
        config: The settings as strings, all defaults resolved.
        settings: The same in typed parts.
        choice: Objective and solver.
        model_type: The model's family.
        shape: The decoder's dimensions.
        processor: Tokenizer, image processor and chat template.
        ranker: Orders tokens before the decoder, for baselines and for other spaces: the run's, or
            the family's where the run's acts inside the decoder.
        usable_rankers: Names of those that the model can serve with default parameters, before and
            inside the decoder.
        calibration: The samples that are searched on.
        heldout: The samples that judge what was found.
        constraints: The budgets over the calibration samples.
        effort_estimate: The work of the joint objective on the calibration samples.
        table: Measured times of one layer; None without a budget of time.
        images: Image setting of the samples; None: the processor's own.
    """

    config: RunConfig
    settings: SearchSettings
    choice: SearchChoice
    model_type: str
    shape: Shape
    processor: Any
    ranker: RankerSpec
    usable_rankers: tuple[str, ...]
    calibration: list[Sample]
    heldout: list[Sample]
    constraints: tuple[Constraint, ...]
    effort_estimate: EffortEstimate
    table: LatencyTable | None = None
    images: ImageSetting | None = None

    @property
    def nested(self) -> bool:
        """True if the order of `ranker` is the same for all numbers of tokens."""
        return make_ranker(self.ranker).nested

    @property
    def seen(self) -> Seen:
        """The calibration samples, as evaluations recognise them."""
        return Seen.of([sample.item for sample in self.calibration])


@dataclass(frozen=True)
class Settled:
    """Settings that were checked against the config of the model.

    Attributes:
        config: The settings as strings.
        settings: The same in typed parts.
        model_config: The model's config; no weights are loaded.
    """

    config: RunConfig
    settings: SearchSettings
    model_config: Any


def settle(config: RunConfig) -> Settled:
    """Resolve settings for their model, and check all that needs neither data nor weights.

    Raises:
        OpsearchError: A setting is wrong, or settings do not go together.
    """
    return settle_for(config.model_spec.load_config(), config, {})


def settle_for(model_config: Any, config: RunConfig, parts: Mapping[str, Any]) -> Settled:
    """Resolve and check settings for the config of a model, as `settle` does.

    Args:
        model_config: The model's config.
        config: The settings as strings.
        parts: Fields of `SearchSettings` that were given as objects, in place of those of `config`.

    Raises:
        OpsearchError: A setting is wrong, or settings do not go together.
    """
    registry.registered("baselines")  # a broken one fails now, and not after the search
    layers = Shape.from_config(model_config).layers
    settings = resolve(config, layers, family_for(model_config.model_type).ranker)
    settings = replace(settings, **parts)
    names = {name: part.name for name, part in parts.items() if name in ("objective", "solver")}
    if "space" in parts:
        names["space"] = settings.space.name + AS_OBJECT
        ranker = _own_ranker(settings.space) or settings.space_settings.ranker
        space_settings = replace(settings.space_settings, ranker=ranker)
        settings = replace(settings, space_settings=space_settings)
    check_ranker(settings.space_settings.ranker, model_config)
    check_nested(settings.space, settings.space_settings.ranker)
    choose(settings, seconds=0.0)
    settings.model.check("a budget of time" if settings.timed else None)
    _check_images(settings, model_config)
    return Settled(config.model_copy(update=names), settings, model_config)


def _check_images(settings: SearchSettings, model_config: Any) -> None:
    """Raise OpsearchError if the model has no such image settings, or a budget is of time."""
    if settings.images == FULL_SIZE:
        return
    family_for(model_config.model_type).image_lever()
    if settings.timed:
        raise OpsearchError(
            "--images goes with budgets of FLOPs and of the KV cache, and not with one of time, "
            "which is fitted to images of full size; give e.g. --budget 50%prefill"
        )


def _own_ranker(space: Space) -> RankerSpec | None:
    """Return the ranker in the policies of a space; None if its policies have none."""
    rows = [[0] * len(space.parameters)]
    if space.listed:  # the first or the last policy may prune nothing
        rows = space.points[[0, len(space.points) // 2, -1]].tolist()
    return next((spec for row in rows for _, spec in space.decode(row).rankers), None)


def prepare(settled: Settled, progress: Progress, test: int | None = None) -> Prepared:
    """Load data and processor by name, and state the search.

    Args:
        settled: The settings of the run.
        progress: Shows progress.
        test: Number of test samples that take the place of the held-out ones; None: none do.

    Raises:
        InfeasibleBudgetError: No policy keeps to the budgets; names the achievable range.
        OpsearchError: A setting, the data or the model cannot be used.
    """
    settled.settings.require_full_size()
    return state(settled, *loaded(settled, progress, test), progress)


def loaded(
    settled: Settled, progress: Progress, test: int | None = None
) -> tuple[Any, tuple[list[Item], list[Item]]]:
    """Return the processor, and calibration and held-out items; see `prepare`."""
    config = settled.config
    processor = settled.settings.model.load_processor()
    with progress.unnumbered(f"reading {config.data or 'the embedded tasks'}") as tick:
        drawn = run_items(config, test, tick)
    for note in drawn.notes:
        progress.say(note)
    return processor, (drawn.calibration, drawn.heldout)


def at_budget(prepared: Prepared, budget: Budget) -> Prepared:
    """Return a search with one budget in place of its own.

    What was left open is chosen again.

    Args:
        prepared: The search.
        budget: The budget.

    Raises:
        InfeasibleBudgetError: No policy keeps to the budget; names the achievable range.
    """
    settings = replace(prepared.settings, budgets=(budget,))
    sizes = [sample.size for sample in prepared.calibration]
    constraints = make_constraints([budget], prepared.shape, settings.space, sizes, prepared.table)
    check_budget(settings.space, constraints)
    estimate = replace(prepared.effort_estimate, constraints=constraints)
    return replace(
        prepared,
        config=prepared.config.model_copy(update={"budget": (budget.text,)}),
        settings=settings,
        choice=choose_by_estimate(settings, estimate),
        constraints=constraints,
        effort_estimate=estimate,
    )


def check_ranker(spec: RankerSpec | None, model_config: Any) -> None:
    """Raise ModelError where a model of this config cannot give what the ranker reads."""
    if spec is not None:
        needs = known_ranker(spec).needs
        family_for(model_config.model_type).check_needs(model_config, needs)


def state(
    settled: Settled,
    processor: Any,
    items: tuple[Sequence[Item], Sequence[Item]],
    progress: Progress,
) -> Prepared:
    """Encode calibration and held-out samples, count the costs, choose what was left open.

    Further arguments and errors are those of `prepare`.
    """
    encoded = encode_items(settled, processor, items, progress)
    limits = limits_of(settled, encoded, progress)
    check_budget(settled.settings.space, limits.constraints)
    return stated(settled, processor, encoded, limits, progress)


@dataclass(frozen=True)
class Encoded:
    """The samples of a run.

    Attributes:
        calibration: The samples that are searched on.
        heldout: The samples that judge what was found.
        images: Image setting with which they were encoded; None: the processor's own.
    """

    calibration: list[Sample]
    heldout: list[Sample]
    images: ImageSetting | None = None


@dataclass(frozen=True)
class Limits:
    """The budgets over the calibration samples.

    Attributes:
        shape: The decoder's dimensions.
        constraints: The budgets as limits.
        table: Measured times of one layer; None without a budget of time.
    """

    shape: Shape
    constraints: tuple[Constraint, ...]
    table: LatencyTable | None


def encode_items(
    settled: Settled,
    processor: Any,
    items: tuple[Sequence[Item], Sequence[Item]],
    progress: Progress,
    if_answered: int = 0,
) -> Encoded:
    """Encode calibration and held-out items as the processor does by itself.

    Args:
        settled: The settings of the run.
        processor: The model's processor.
        items: The calibration items, and the held-out ones.
        progress: Shows progress.
        if_answered: Number of stages that run only if all held-out samples have answers.

    Raises:
        DataError: An item cannot be encoded, or exceeds the model's positions.
    """
    config, settings, model_config = settled.config, settled.settings, settled.model_config
    calibration, heldout = items
    if not all_answered(heldout):
        progress.total -= if_answered
    both = [*calibration, *heldout]
    with progress.stage(f"encoding {counted(len(both), 'sample')}") as tick:
        encoded = encode(
            both, processor, model_config, lambda done: tick(done, len(both)), progress.say
        )
    samples, rest = encoded[: len(calibration)], encoded[len(calibration) :]
    check_positions(encoded, model_config, settings.positions, "--positions")
    if all_answered(heldout):
        check_answer_positions(rest, processor, model_config, config.answer_tokens)
    return Encoded(samples, rest)


def limits_of(settled: Settled, encoded: Encoded, progress: Progress) -> Limits:
    """Return the budgets over calibration samples; a latency table is fitted if one is needed."""
    config, settings, model_config = settled.config, settled.settings, settled.model_config
    # The cache has the data type that the model runs in, not that of the stored weights.
    itemsize = settings.model.itemsize
    shape = replace(Shape.from_config(model_config), kv_bytes_per_element=itemsize)
    table = _latency_table(config, settings, model_config, encoded.calibration, progress)
    sizes = [sample.size for sample in encoded.calibration]
    constraints = make_constraints(settings.budgets, shape, settings.space, sizes, table)
    return Limits(shape, constraints, table)


def stated(
    settled: Settled,
    processor: Any,
    encoded: Encoded,
    limits: Limits,
    progress: Progress,
    parts: int = 1,
) -> Prepared:
    """Choose what the settings leave open.

    Args:
        settled: The settings of the run.
        processor: The model's processor.
        encoded: The samples.
        limits: The budgets over the calibration samples.
        progress: Shows what was chosen.
        parts: Number of such searches that share the effort of the run.
    """
    config, settings, model_config = settled.config, settled.settings, settled.model_config
    samples, shape, constraints = encoded.calibration, limits.shape, limits.constraints
    family = family_for(model_config.model_type)
    batches = group_samples(samples, family, model_config, settings.positions)
    estimate = EffortEstimate(
        space=settings.space,
        constraints=constraints,
        batches=batches,
        memory=planned_memory(settings.model, settings.memory, shape),
        device=settings.model.device,
        parts=parts,
    )
    settings = with_effort(settings, config.effort, estimate)
    if config.effort is None and settings.effort > LEAST_EFFORT:
        took = format_duration(settings.effort)
        progress.say(
            f"--effort {settings.effort:g} ({took}), from the estimated time of a forward here"
        )
    choice = choose_by_estimate(settings, estimate)
    ranker = settings.space_settings.ranker or family.ranker
    unsupported = family.unsupported_rankers(model_config)
    usable = [*registry.names("rankers"), *registry.names("decoder_rankers")]
    return Prepared(
        config=_completed(config, settings, choice, ranker, len(samples)),
        settings=settings,
        choice=choice,
        model_type=model_config.model_type,
        shape=shape,
        processor=processor,
        ranker=family.ranker if ranker.inside else ranker,
        usable_rankers=tuple(name for name in usable if name not in unsupported),
        calibration=samples,
        heldout=encoded.heldout,
        constraints=constraints,
        effort_estimate=estimate,
        table=limits.table,
        images=encoded.images,
    )


def _latency_table(
    config: RunConfig,
    settings: SearchSettings,
    model_config: Any,
    samples: Sequence[Sample],
    progress: Progress,
) -> LatencyTable | None:
    """Return the table of the run's folder where it holds for these samples here, else a new one.

    None without a budget of time.
    """
    if not settings.timed:
        return None
    path, model = RunFolder(config.out).latency, settings.model
    pairs, pictures = [sample.shape for sample in samples], typical_pictures(samples)
    fewest, most = min(other for _, other in pairs), max(map(sum, pairs))
    if not pictures and any(sample.image_flops != 0 for sample in samples):
        progress.say(
            "times are those of the decoder: FLOPs of the vision tower, by which its time is "
            "known for each image, are not described for this model or its videos"
        )
    with progress.stage("latency table") as tick:
        if path.exists():
            table = read_table(path)
            here = table.place == machine_of(model_config, model)
            if here and table.covers(fewest, most) and bool(table.images) == bool(pictures):
                return table
        return fit_latency(model_config, pairs, model, tick, pictures)


def _completed(
    config: RunConfig,
    settings: SearchSettings,
    choice: SearchChoice,
    ranker: RankerSpec,
    samples: int,
) -> RunConfig:
    """Return the settings with all that was left open: what was chosen, samples and effort."""
    chosen = {
        "objective": config.objective or choice.objective.name,
        "solver": config.solver or choice.solver.name,
        "ranker": str(ranker),
        "samples": config.samples or samples,
        "effort": settings.effort,
    }
    return config.model_copy(update=chosen)
