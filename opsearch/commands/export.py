"""`opsearch export`: the measurements of a run as one tidy table."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from opsearch.errors import OpsearchError
from opsearch.files import require_new, write_atomic
from opsearch.measure.storage.records import (
    BEGUN,
    CALIBRATION,
    COLUMNS,
    COMPARED,
    COMPARED_CALIBRATION,
    HELD_OUT,
    StoredSample,
)
from opsearch.problem.spaces.base import Space
from opsearch.problem.spaces.point_policies import PointPolicies
from opsearch.runs.pruned_alone import pruned_alone
from opsearch.runs.stored import open_stored

_SPLITS = (CALIBRATION, HELD_OUT, COMPARED, COMPARED_CALIBRATION, BEGUN)  # the first one names it
_OTHER = "other"  # samples of other answers of the run alone


def export(folder: Path, path: Path, *, replace: bool = False) -> pd.DataFrame:
    """Write every stored divergence to a .parquet or .csv file, also while the run goes on.

    Args:
        folder: The run folder.
        path: The file; its suffix selects the format.
        replace: Write over an existing file.

    Returns:
        One row per policy and sample: canonical key of the policy; its parameters, empty unless it
        is a point of the run's space, or in spaces too large to list `pruned`, the one or two
        operations that it prunes, empty if there are more; the sample and the first split that
        holds it, `other` for samples of another answer alone; divergences in nats, top1 as a share.

    Raises:
        OpsearchError: The suffix is unknown, the file exists, or Parquet needs pyarrow.
    """
    if path.suffix not in (".parquet", ".csv"):
        raise OpsearchError(f"{path} has an unknown suffix; name a .parquet or .csv file")
    if not replace:
        require_new(path)
    table = measurements(folder)
    write_atomic(path, lambda file: _write(table, file))
    return table


def measurements(folder: Path) -> pd.DataFrame:
    """Return every stored divergence of a run, one row per policy and sample.

    The columns are those of `export`.
    """
    with open_stored(folder, finished=False) as run:
        store, space = run.store, run.settings.space
        samples = store.all_samples()
        sizes = {sample.n_visual for _, sample in samples}
        points = _points(space, sizes) if space.listed else pruned_alone(space, sizes)
        measured = pd.DataFrame(
            [
                (m.policy, m.item, *(getattr(m, name) for name in COLUMNS))
                for m in store.everything()
            ],
            columns=["policy", "item", *COLUMNS],
        )
    table = measured.merge(points, on="policy", how="left").merge(_listed(samples), how="left")
    names = [name for name in points.columns if name != "policy"]
    about = ["split", "sample", "family", "n_visual", "n_other", "item"]
    table = table[["policy", *names, *about, *COLUMNS]]
    return table.sort_values(["split", "sample", "policy"], ignore_index=True)


def _points(space: Space, sizes: set[int]) -> pd.DataFrame:
    """Return the parameters of the space's points, one row per canonical key."""
    columns = zip(space.parameters, space.points.T, strict=True)
    named = pd.DataFrame({p.name: np.array(list(map(str, p.values)))[at] for p, at in columns})
    policies = PointPolicies(space, space.points)
    keys = [key for n_visual in sorted(sizes) for key in policies.canonical(n_visual)]
    repeated = named.loc[np.tile(named.index, len(sizes))].assign(policy=keys)
    return repeated.drop_duplicates("policy", keep="last")


def _listed(samples: list[tuple[str | None, StoredSample]]) -> pd.DataFrame:
    """Return one row per sample, with the first split that holds it."""
    shown = {BEGUN: CALIBRATION, None: _OTHER}
    rows = [
        (shown.get(split, split), s.name, s.family, s.n_visual, s.n_other, s.item)
        for first in (*_SPLITS, None)
        for split, s in samples
        if split == first
    ]
    columns = ["split", "sample", "family", "n_visual", "n_other", "item"]
    return pd.DataFrame(rows, columns=columns).drop_duplicates("item")


def _write(table: pd.DataFrame, file: Path) -> None:
    if file.suffix == ".csv":
        table.to_csv(file, index=False)
        return
    try:
        table.to_parquet(file, index=False)
    except ImportError as error:
        raise OpsearchError(
            "writing Parquet requires pyarrow; run `pip install pyarrow`, or name a .csv file"
        ) from error
