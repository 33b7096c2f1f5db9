"""A finished search, read from its run folder without loading a model."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from opsearch.analysis.measured import Measured
from opsearch.analysis.outcomes import Outcome
from opsearch.costs.latency_table import LatencyTable
from opsearch.costs.shape import Shape
from opsearch.data.groups import Seen
from opsearch.errors import OpsearchError, RunFolderError
from opsearch.measure.storage.noise import noise_floor
from opsearch.measure.storage.records import CALIBRATION, COLUMNS, StoredSample
from opsearch.measure.storage.store import Store
from opsearch.objectives.additive import alone, require_individual
from opsearch.policy.builders import identity
from opsearch.policy.images import ImageSetting
from opsearch.policy.policy import Policy
from opsearch.policy.ranker import parse_ranker
from opsearch.problem.budget import Budget
from opsearch.problem.constraint import Constraint
from opsearch.problem.objective import Masses
from opsearch.problem.objective_factory import ObjectiveFactory
from opsearch.problem.spaces.base import Space
from opsearch.problem.spaces.operations import is_gradual
from opsearch.problem.spaces.point_policies import PointPolicies, canonical_keys
from opsearch.runs.config import RunConfig
from opsearch.runs.latency_file import read_table
from opsearch.runs.run_folder import RunFolder
from opsearch.runs.setup import SearchSettings, make_constraints, resolve

_UNPRUNED = dict.fromkeys(COLUMNS, 0.0) | {"top1": 1.0}


@dataclass(frozen=True, kw_only=True)
class StoredSearch:
    """A search as a run folder holds it, open for looking up.

    Attributes:
        folder: The run folder.
        config: The settings as strings.
        settings: The same in typed parts.
        shape: The decoder's dimensions.
        store: The measurements.
        samples: The calibration samples.
        images: Image setting of the samples; None: the processor's own.
    """

    folder: RunFolder
    config: RunConfig
    settings: SearchSettings
    shape: Shape
    store: Store
    samples: list[StoredSample]
    images: ImageSetting | None = None

    @property
    def model_type(self) -> str:
        """The model's family."""
        return str(self.store.facts["model_type"])

    @property
    def item_digests(self) -> list[str]:
        """Digests of the calibration items."""
        return [sample.content for sample in self.samples]

    @property
    def sample_keys(self) -> list[str]:
        """Keys of the numbers that are stored for the calibration samples."""
        return [sample.item for sample in self.samples]

    @property
    def seen(self) -> Seen | None:
        """Digests and groups of the calibration samples; None for a run of an earlier version."""
        return self.store.seen()

    @property
    def noise_floor(self) -> float:
        """Nats below which divergences tie."""
        full = [sample.original or sample for sample in self.samples]
        return noise_floor(self.store, [sample.item for sample in full])

    def constraints(
        self, budgets: Sequence[Budget], space: Space | None = None
    ) -> tuple[Constraint, ...]:
        """Return budgets as limits over the calibration samples.

        Args:
            budgets: At most one for each cost.
            space: The space whose points are counted; None: the run's.

        Raises:
            RunFolderError: A budget is of time, and the run fitted no latency table.
        """
        table = self.latency_table() if any(b.cost_class.timed for b in budgets) else None
        sizes = [sample.size for sample in self.samples]
        return make_constraints(budgets, self.shape, space or self.settings.space, sizes, table)

    def latency_table(self) -> LatencyTable:
        """Return the latency table that the run fitted.

        Raises:
            RunFolderError: The run had no budget of time.
        """
        if not self.folder.latency.exists():
            raise RunFolderError(
                f"{self.folder.path} holds no latency table, because its run had no budget of "
                f"time; `opsearch run --config {self.folder.config} --budget 50%latency` fits one"
            )
        return read_table(self.folder.latency)

    def measure(self, objective: ObjectiveFactory) -> StoredMeasure:
        """Return what looks up the measurements of an objective."""
        return StoredMeasure(self, objective)


@contextmanager
def open_stored(
    path: Path, config: RunConfig | None = None, *, finished: bool = True
) -> Iterator[StoredSearch]:
    """Open the search of a run folder; no model is loaded.

    Args:
        path: The run folder.
        config: Its settings, changed; None: as they are.
        finished: The run must have finished measuring; else its samples may be none.

    Raises:
        RunFolderError: The folder holds no run, or a damaged one.
        PolicyError: The images of its samples are smaller ones, and its policy cannot be read.
    """
    folder = RunFolder(path)
    config = config or RunConfig.load(folder.config)
    with Store(folder.measurements, result=folder.name) as store:
        shape = Shape(**store.facts["shape"])
        settings = resolve(config, shape.layers, parse_ranker(str(config.ranker)))
        samples = store.calibration() if finished else store.samples(CALIBRATION)
        smaller = any(sample.original for sample in samples)
        yield StoredSearch(
            folder=folder,
            config=config,
            settings=settings,
            shape=shape,
            store=store,
            samples=samples,
            images=Policy.from_pretrained(folder.path).images if smaller else None,
        )


def stored_gradients(
    store: Store, samples: Sequence[StoredSample], policies: Sequence[Policy]
) -> NDArray[np.float64]:
    """Return the stored gradients of closed gates, float64[P, S], nan where nothing is stored."""
    original = identity(policies[0].num_layers)
    table = np.full((len(policies), len(samples)), np.nan)
    for n_visual in {sample.n_visual for sample in samples}:
        keys = canonical_keys(policies, n_visual)
        found = store.gate_gradients(keys)
        key = original.canonical(n_visual)
        found |= {(key, sample.item): 0.0 for sample in samples if sample.original is None}
        for column, sample in enumerate(samples):
            if sample.n_visual == n_visual:
                table[:, column] = [found.get((key, sample.item), np.nan) for key in keys]
    return table


@dataclass(frozen=True)
class StoredMeasure:
    """Looks up the measurements of a run; what was not measured is nan.

    Attributes:
        run: The stored search.
        objective: The objective that asks.
    """

    run: StoredSearch
    objective: ObjectiveFactory

    def __call__(self, policies: Sequence[Policy]) -> NDArray[np.float64]:
        """Return the KL of each policy on each sample in nats, float64[P, S].

        Raises:
            RunFolderError: Policies that a sum of terms needs, or all that a table asks for, were
                not measured.
        """
        tables, pruned = looked_up(self.run.store, self.run.samples, policies, ("kl",))
        table: NDArray[np.float64] = tables[0]
        missing = np.asarray(np.isnan(table).any(axis=1))
        summed = self.objective.form in ("separable", "pairwise")
        if missing.all() or (summed and missing.any()) or missing[pruned].all():
            folder, name = self.run.folder, self.objective.name
            complete = " --complete" if self.objective.form == "table" else ""
            raise RunFolderError(
                f"{folder.path} does not hold the measurements for objective {name}; `opsearch "
                f"run --config {folder.config} --objective {name}{complete}` makes them"
            )
        return table

    def received_attention(self) -> list[Masses]:
        """Return for each sample the attention that its visual tokens get, float32[L, 2, N].

        Raises:
            RunFolderError: The attention was not read.
        """
        keys, folder = self.run.sample_keys, self.run.folder
        found = self.run.store.received(keys)
        if any(key not in found for key in keys):
            raise RunFolderError(
                f"{folder.path} does not hold the original's attention; `opsearch run --config "
                f"{folder.config} --space recipes --objective attention` reads it"
            )
        return [found[key] for key in keys]

    def gate_gradients(self, policies: Sequence[Policy]) -> NDArray[np.float64]:
        """Return the gradient that each policy's closed gates have, float64[P, S].

        Raises:
            RunFolderError: A gradient was not taken.
        """
        table = stored_gradients(self.run.store, self.run.samples, policies)
        if np.isnan(table).any():
            folder = self.run.folder
            raise RunFolderError(
                f"{folder.path} does not hold the gradients of these policies; `opsearch run "
                f"--config {folder.config} --objective taylor` takes them"
            )
        return table


def stored_run(path: Path, space: str | None = None) -> Measured:
    """Return what a run measured on its calibration samples, over all points of a space.

    Args:
        path: The run folder.
        space: The space whose points are looked up; None: the run's.

    Raises:
        RunFolderError: A parameter was not measured alone at each of its values.
        OpsearchError: Individual divergences do not exist in the space, or its points are too many.
    """
    found = stored_alone(path, space)
    if is_gradual(found.space):
        found.space.raise_unlistable()  # it names the search, which measures no share alone
    if not found.space.listed:
        also = (
            ""
            if found.space.per_operation is None
            else (f"; `opsearch analyze operations {path}` shows the KL of each operation alone")
        )
        raise OpsearchError(
            f"space {found.space.name!r} has too many policies to list, so that they cannot be "
            f"compared with each other{also}, and runs of space dop or depth have all analyses"
        )
    for parameter, kl in zip(found.space.parameters, found.alone["kl"], strict=True):
        if np.isnan(kl).any():
            config = RunFolder(path).config
            raise RunFolderError(
                f"{path} does not hold the individual divergences of {parameter.name}; "
                f"`opsearch run --config {config} --space {found.space.name}` measures them"
            )
    return found


def stored_alone(path: Path, space: str | None = None) -> Measured:
    """Return what a run measured, of a space that is too large to list each parameter alone.

    Args:
        path: The run folder.
        space: The space whose points are looked up; None: the run's.

    Raises:
        OpsearchError: Individual divergences do not exist in the space.
    """
    with open_stored(path) as run:
        searched = run.settings.space
        if space is not None:
            given = run.settings.space_settings
            assert given.ranker is not None  # a stored run names it
            searched = run.settings.in_space(space, given.ranker, given.stages).space
        require_individual(searched)
        flops = run.constraints([Budget.parse("100%")], searched)[0]
        single = [np.array(alone(searched, k)) for k in range(len(searched.parameters))]
        no_points = np.zeros((0, len(searched.parameters)), np.int64)
        rows = [searched.points if searched.listed else no_points, *single]
        quantum = run.noise_floor
        policies = PointPolicies(searched, np.concatenate(rows))
        found, _ = looked_up(run.store, run.samples, policies, COLUMNS)
        closed = PointPolicies(searched, np.concatenate(single))
        gradients = stored_gradients(run.store, run.samples, closed)
    ends = np.cumsum([len(group) for group in rows])[:-1]
    tables = {name: np.split(table, ends) for name, table in zip(COLUMNS, found, strict=True)}
    each_alone = {name: tuple(parts[1:]) for name, parts in tables.items()}
    if not np.isnan(gradients).any():
        each_alone["taylor"] = tuple(np.split(gradients, (ends - ends[0])[1:]))
    settings = run.config.model_dump(mode="json") | {"space": searched.name}
    return Measured(
        label=path.name,
        settings={name: str(value) for name, value in settings.items()},
        space=searched,
        flops=flops,
        items=tuple(run.item_digests),
        families=tuple(sample.family for sample in run.samples),
        tables={name: parts[0] for name, parts in tables.items()},
        alone=each_alone,
        quantum=quantum,
    )


def looked_up(
    store: Store,
    samples: Sequence[StoredSample],
    policies: Sequence[Policy],
    columns: Sequence[str],
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Look up the stored divergences of policies on samples.

    Returns:
        float64[C, P, S] by column, nan where nothing is stored, and bool[P], whether a policy
        prunes something on every sample.
    """
    original = identity(policies[0].num_layers)
    tables = np.full((len(columns), len(policies), len(samples)), np.nan)
    pruned = np.ones(len(policies), bool)
    for n_visual in sorted({s.n_visual for s in samples}):
        of_size = [column for column, s in enumerate(samples) if s.n_visual == n_visual]
        keys = canonical_keys(policies, n_visual)
        found = store.table(keys, [samples[column].item for column in of_size], columns)
        same = np.array(keys) == original.canonical(n_visual)
        full = np.array([samples[column].original is None for column in of_size])
        found[:, same[:, None] & full] = np.array([_UNPRUNED[name] for name in columns])[:, None]
        tables[:, :, of_size] = found
        pruned &= ~same
    return tables, pruned


def stored_outcome(folder: Path) -> Outcome:
    """Return the record and the final table of the run in `folder`.

    Raises:
        RunFolderError: One of them is missing or cannot be read.
    """
    run = RunFolder(folder)
    RunConfig.load(run.config)  # raises if the folder is not a run
    try:
        record = json.loads(run.solution.read_text(encoding="utf-8"))
        comparison = pd.read_csv(run.comparison, index_col=0)
    except (OSError, ValueError) as error:
        again = f"`opsearch run --config {run.config}`"
        if run.solution.exists() and not run.comparison.exists():
            raise RunFolderError(
                f"{folder} holds an answer without comparison, as `opsearch solve` makes them; "
                f"{again} searches one and compares it"
            ) from error
        reason = " ".join(str(error).split())
        raise RunFolderError(
            f"{folder} holds no finished run ({reason}); {again} finishes it"
        ) from error
    return Outcome(folder.name, record, comparison)
