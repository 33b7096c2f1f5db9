"""What a run can know before any weights are loaded: samples, space, costs and budgets."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from opsearch.costs.latency import LatencyTable, read_table
from opsearch.costs.shape import Shape
from opsearch.data.embedded import embedded
from opsearch.data.files import load_file
from opsearch.data.item import Item, all_answered
from opsearch.data.lmms import PREFIX as LMMS_PREFIX
from opsearch.data.lmms import lmms_items
from opsearch.measure.planning.batches import group_samples
from opsearch.models.encoding import Sample, encode
from opsearch.models.families import family_for
from opsearch.models.loading import check_attention, check_device, load_config, load_processor
from opsearch.policy.ranker import RankerSpec, parse_ranker
from opsearch.problem.constraint import Constraint, check_budget
from opsearch.problem.spaces.base import Space
from opsearch.progress import Stages
from opsearch.rankers import DECODER_RANKERS, RANKERS, make_decoder_ranker, make_ranker
from opsearch.registry import lookup
from opsearch.runs.choose import Choice, choose, choose_planned
from opsearch.runs.config import RunConfig
from opsearch.runs.effort import Planned, planned_room
from opsearch.runs.run_folder import RunFolder
from opsearch.runs.setup import limits_time, make_constraints, make_space, parse_budgets
from opsearch.timing.latency_table import fit_latency, place_of


@dataclass(frozen=True)
class Prepared:
    """A search that is fully stated, but for the measurements; `config` has nothing left open.

    ranker: what orders tokens before the decoder for baselines and in other spaces: the run's, or
    the family's where the run's acts inside. planned: what joint takes on the calibration samples.
    table: what a budget of time is counted with, None without such a budget.
    usable_rankers: names of those that the model can serve as they are.
    """

    config: RunConfig
    choice: Choice
    model_type: str
    shape: Shape
    processor: Any
    ranker: RankerSpec
    usable_rankers: tuple[str, ...]
    calibration: list[Sample]
    heldout: list[Sample]
    space: Space
    constraints: tuple[Constraint, ...]
    planned: Planned
    table: LatencyTable | None = None


def prepare(
    config: RunConfig, stages: Stages, split: str = "held-out", if_answered: int = 0
) -> Prepared:
    """Load data and processor, state the space and the budgets, choose what was left open.

    split: of the embedded tasks, which the held-out samples are taken from. if_answered: how many
    of the stages there are only if all of these have answers. Raises InfeasibleBudgetError with the
    achievable range, UnknownNameError, DataError, ModelError.
    """
    choose(config, seconds=0.0)  # names and forms, before anything is loaded
    timed = limits_time(config.budget)
    check_device(config.device, config.dtype, "a budget of time" if timed else None)
    check_attention(config.attention, config.dtype, config.device)
    model_config = load_config(config.model)
    shape = Shape.from_config(model_config)
    ranker = run_ranker(config, model_config)
    inside = ranker.name in DECODER_RANKERS
    space = make_space(config, shape.layers, ranker)
    budgets = parse_budgets(config.budget)
    processor = load_processor(config.model)
    calibration, heldout = _items(config, split, stages)
    if not all_answered(heldout):
        stages.total -= if_answered
    items = [*calibration, *heldout]
    with stages.stage(f"encoding {len(items)} samples") as tick:
        encoded = encode(items, processor, model_config, lambda done: tick(done, len(items)))
    samples, rest = encoded[: len(calibration)], encoded[len(calibration) :]
    pairs = [sample.shape for sample in samples]
    table = _latency_table(config, model_config, pairs, stages) if timed else None
    constraints = make_constraints(budgets, shape, space, pairs, table)
    check_budget(space, constraints)
    family = family_for(model_config.model_type)
    gathered = group_samples(samples, family, model_config, config.positions)
    room = planned_room(config, shape)
    planned = Planned(space, constraints, gathered, room, config.device)
    choice = choose_planned(config, planned)
    return Prepared(
        _completed(config, choice, ranker),
        choice,
        model_config.model_type,
        shape,
        processor,
        family.ranker if inside else ranker,
        tuple(family.rankers(model_config)),
        samples,
        rest,
        space,
        constraints,
        planned,
        table,
    )


def _items(config: RunConfig, split: str, stages: Stages) -> tuple[list[Item], list[Item]]:
    """Calibration and held-out items; where they are fewer than asked for, it is said."""
    calibration, heldout = load_items(config, split)
    if (found := (len(calibration), len(heldout))) != (config.samples, config.heldout):
        stages.say(_fewer(config, *found))
    return calibration, heldout


def _latency_table(
    config: RunConfig, model_config: Any, pairs: Sequence[tuple[int, int]], stages: Stages
) -> LatencyTable:
    """The table of the run's folder where it holds for these samples here, else a new one."""
    path = RunFolder(config.out).latency
    settings = config.dtype, config.device, config.attention
    fewest, most = min(other for _, other in pairs), max(map(sum, pairs))
    with stages.stage("latency table") as tick:
        if path.exists():
            table = read_table(path)
            if table.place == place_of(model_config, *settings) and table.covers(fewest, most):
                return table
        return fit_latency(model_config, pairs, settings, tick)


def _completed(config: RunConfig, choice: Choice, ranker: RankerSpec) -> RunConfig:
    """The settings with what they left open."""
    chosen = {"objective": choice.maker.name, "solver": choice.solver.name, "ranker": str(ranker)}
    return config.model_copy(update=chosen)


def run_ranker(config: RunConfig, model_config: Any) -> RankerSpec:
    """The ranker of a run: the one it names or the family's; ModelError when it cannot serve."""
    family = family_for(model_config.model_type)
    spec = parse_ranker(config.ranker) if config.ranker else family.ranker
    lookup("rankers", spec.name, {**RANKERS, **DECODER_RANKERS})  # to list both kinds
    made = make_decoder_ranker(spec) if spec.name in DECODER_RANKERS else make_ranker(spec)
    family.check_needs(model_config, made.needs)
    return spec


def load_items(config: RunConfig, split: str = "held-out") -> tuple[list[Item], list[Item]]:
    """Calibration and held-out items, disjoint in content.

    The embedded tasks have a split for each; a file or a task of lmms-eval is shuffled by the seed
    and cut, and items that repeat a calibration item are left out of the held-out part.
    """
    if config.data is None:
        heldout = embedded(split, config.heldout, config.seed) if config.heldout else []
        return embedded("calibration", config.samples, config.seed), heldout
    items = _shuffled(str(config.data), config.seed)
    calibration = list(islice(items, config.samples))
    used = {item.digest() for item in calibration}
    rest = (item for item in items if item.digest() not in used)
    return calibration, list(islice(rest, config.heldout))


def _fewer(config: RunConfig, calibration: int, heldout: int) -> str:
    """What is used of data that hold less than was asked for."""
    left = "" if heldout or not config.heldout else "; fewer --samples leave some to judge on"
    return (
        f"{config.data} has items for {calibration} of {config.samples} calibration samples and "
        f"{heldout} of {config.heldout} held-out ones, which repeat none of the former{left}"
    )


def _shuffled(data: str, seed: int) -> Iterator[Item]:
    """The items of a file, or of lmms:TASK, whose documents are read only as they are needed."""
    if data.startswith(LMMS_PREFIX):
        return lmms_items(data.removeprefix(LMMS_PREFIX), seed)
    items = load_file(Path(data))
    random.Random(seed).shuffle(items)
    return iter(items)
