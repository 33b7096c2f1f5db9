"""Reads a run's measurements as arrays for the analyses; loads no model."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from opsearch.analysis.measured import Measured
from opsearch.analysis.outcomes import Outcome
from opsearch.costs.shape import Shape
from opsearch.errors import RunFolderError
from opsearch.measure.engine import noise_floor
from opsearch.measure.storage.records import COLUMNS, StoredSample
from opsearch.measure.storage.store import Store
from opsearch.objectives.additive import alone, require_individual
from opsearch.policy.builders import identity
from opsearch.policy.policy import Policy
from opsearch.policy.ranker import parse_ranker
from opsearch.problem.spaces.point_policies import PointPolicies, canonical_keys
from opsearch.runs.config import RunConfig
from opsearch.runs.run_folder import RunFolder
from opsearch.runs.setup import make_constraints, make_space, parse_budgets

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
        single = [np.array(alone(searched, k)) for k in range(len(searched.parameters))]
        rows = [searched.points, *single]
        quantum = noise_floor(store, [s.item for s in samples])
        policies = PointPolicies(searched, np.concatenate(rows))
        found, _ = looked_up(store, samples, policies, COLUMNS)
    ends = np.cumsum([len(group) for group in rows])[:-1]
    tables = {name: np.split(table, ends) for name, table in zip(COLUMNS, found, strict=True)}
    for parameter, kl in zip(searched.parameters, tables["kl"][1:], strict=True):
        if np.isnan(kl).any():
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
        tables={name: parts[0] for name, parts in tables.items()},
        alone={name: tuple(parts[1:]) for name, parts in tables.items()},
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
        found[:, same] = np.array([_UNPRUNED[name] for name in columns])[:, None, None]
        tables[:, :, of_size] = found
        pruned &= ~same
    return tables, pruned


def stored_outcome(folder: Path) -> Outcome:
    """The record and the final table of the run in `folder`.

    Raises RunFolderError where one of them is missing or cannot be read.
    """
    run = RunFolder(folder)
    RunConfig.load(run.config)  # which says so where the folder is no run at all
    try:
        record = json.loads(run.solution.read_text(encoding="utf-8"))
        comparison = pd.read_csv(run.comparison, index_col=0)
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise RunFolderError(
            f"{folder} holds no finished run ({reason}); `opsearch run --config {run.config}` "
            "finishes it"
        ) from error
    return Outcome(folder.name, record, comparison)
