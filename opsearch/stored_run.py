"""Reads a run's measurements as arrays for the analyses; loads no model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from opsearch.analysis.measured import Measured
from opsearch.builders import identity
from opsearch.config import RunConfig
from opsearch.costs.shape import Shape
from opsearch.errors import RunFolderError
from opsearch.measure.noise import noise_floor
from opsearch.measure.rows import COLUMNS, StoredSample
from opsearch.measure.store import Store
from opsearch.objectives.additive import alone, require_individual
from opsearch.policy import Policy
from opsearch.problem_setup import make_constraints, make_space, parse_budgets
from opsearch.rankers.spec import parse_ranker
from opsearch.run_folder import RunFolder

_UNPRUNED = dict.fromkeys(COLUMNS, 0.0) | {"top1": 1.0}


def stored_run(folder: Path, space: str | None = None) -> Measured:
    """What the run in `folder` measured on its calibration samples, over its space or another one.

    Raises RunFolderError when a parameter was not measured alone at each of its values, and
    OpsearchError for a space where that says nothing.
    """
    run = RunFolder(folder)
    config = RunConfig.load(run.config)
    if space is not None:
        config = config.over(space)
    with Store(run.measurements) as store:
        shape = Shape(**store.facts["shape"])
        searched = make_space(config, shape.layers, parse_ranker(str(config.ranker)))
        require_individual(searched)
        samples = store.calibration()
        pairs = [(s.n_visual, s.n_other) for s in samples]
        flops = make_constraints(parse_budgets(["100%"]), shape, searched, pairs)[0]
        points = [searched.decode(point) for point in searched.points.tolist()]
        single = [
            [searched.decode(point) for point in alone(searched, k)]
            for k in range(len(searched.parameters))
        ]
        quantum = noise_floor(store, [s.item for s in samples])
        tables = _lookup(store, samples, [points, *single])
    for parameter, table in zip(searched.parameters, tables[1:], strict=True):
        if np.isnan(table["kl"]).any():
            raise RunFolderError(
                f"{folder} does not hold the individual divergences of {parameter.name}; "
                f"`opsearch run --config {run.config} --space {searched.name}` measures them"
            )
    return Measured(
        label=folder.name,
        settings={name: str(value) for name, value in config.model_dump(mode="json").items()},
        space=searched,
        flops=flops,
        items=tuple(s.item for s in samples),
        families=tuple(s.family for s in samples),
        tables=tables[0],
        alone={name: tuple(table[name] for table in tables[1:]) for name in COLUMNS},
        quantum=quantum,
    )


def _lookup(
    store: Store, samples: Sequence[StoredSample], groups: Sequence[Sequence[Policy]]
) -> list[dict[str, NDArray[np.float64]]]:
    """For each group of policies, by divergence, float64[P, S]; nan where nothing is stored."""
    column_of: dict[str, list[int]] = {}
    for column, sample in enumerate(samples):
        column_of.setdefault(sample.item, []).append(column)
    everything = [policy for group in groups for policy in group]
    full = {name: np.full((len(everything), len(samples)), np.nan) for name in COLUMNS}
    row_of: dict[str, list[int]] = {}
    original = identity(everything[0].num_layers)
    for n_visual in sorted({s.n_visual for s in samples}):
        stock = original.canonical(n_visual)
        of_size = [column for column, s in enumerate(samples) if s.n_visual == n_visual]
        for row, policy in enumerate(everything):
            key = policy.canonical(n_visual)
            row_of.setdefault(key, []).append(row)
            if key == stock:
                for name, table in full.items():
                    table[row, of_size] = _UNPRUNED[name]
    at: list[tuple[int, int]] = []
    values: list[tuple[float, ...]] = []
    for found in store.everything():
        for row in row_of.get(found.policy, ()):
            for column in column_of.get(found.item, ()):
                at.append((row, column))
                values.append((found.kl, found.reverse_kl, found.js, found.top1))
    if at:
        rows, columns = np.array(at).T
        for name, column_values in zip(COLUMNS, np.array(values).T, strict=True):
            full[name][rows, columns] = column_values
    ends = np.cumsum([len(group) for group in groups])[:-1]
    parts = {name: np.split(table, ends) for name, table in full.items()}
    return [{name: parts[name][g] for name in COLUMNS} for g in range(len(groups))]
