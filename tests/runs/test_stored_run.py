"""A run's measurements come back as they were measured, over its space and over another one."""

import numpy as np
import pandas as pd
import pytest

from opsearch.commands.export import export
from opsearch.commands.run import run
from opsearch.errors import OpsearchError, RunFolderError
from opsearch.measure.storage.records import COLUMNS
from opsearch.measure.storage.store import Store
from opsearch.policy.ranker import RankerSpec
from opsearch.runs.config import RunConfig
from opsearch.runs.stored import stored_run
from tests.support.messages import naming

SETTINGS = {"samples": 5, "heldout": 0, "budget": ("15%",), "n_v": ("1/4", "1/2", "1")}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("stored") / "run"
    run(RunConfig(**SETTINGS, objective="joint", complete=True, out=path))
    return path


def test_tables_hold_what_the_store_holds(folder):
    measured = stored_run(folder)
    feasible = measured.share <= 0.15
    # Beyond the budget only what was measured for another reason is known.
    assert measured.complete[feasible].all()
    assert not measured.complete.all()
    row = int(np.flatnonzero(feasible)[7])
    policy = measured.space.decode(measured.space.points[row].tolist())
    with Store(folder / "measurements.db") as store:
        samples = store.samples("calibration")
        for name in COLUMNS:
            stored = store.get([policy.canonical(s.n_visual) for s in samples], name)
            for column, sample in enumerate(samples):
                value = measured.tables[name][row, column]
                assert value == stored[policy.canonical(sample.n_visual), sample.item]
    assert measured.families == tuple(s.family for s in samples)
    assert policy.rankers == ((0, RankerSpec("cls")),)


def test_the_unpruned_point_has_no_divergence(folder):
    measured = stored_run(folder)
    last = len(measured.space.points) - 1
    assert (measured.tables["kl"][last] == 0).all()
    assert (measured.tables["top1"][last] == 1).all()
    for term in measured.alone["kl"]:
        assert (term[-1] == 0).all()
        assert (term[0] > 0).any()


def test_the_proxy_is_the_sum_of_single_divergences(folder):
    measured = stored_run(folder)
    row = len(measured.space.points) // 2
    terms = measured.alone["kl"]
    expected = sum(term[i] for term, i in zip(terms, measured.space.points[row], strict=True))
    assert np.allclose(measured.proxy()[row], expected)


def test_another_space_needs_its_own_single_divergences(folder):
    with pytest.raises(RunFolderError, match=r"\bd_q\b.*--space depth"):
        stored_run(folder, space="depth")


@pytest.mark.parametrize("name", ["all.parquet", "all.csv"])
def test_an_export_holds_every_measurement(folder, tmp_path, name):
    path = tmp_path / name
    export(folder, path)
    table = pd.read_parquet(path) if path.suffix == ".parquet" else pd.read_csv(path)
    with Store(folder / "measurements.db") as store:
        stored = {(m.policy, m.item): m for m in store.everything()}
    assert len(table) == len(stored)
    for row in table.itertuples():
        assert (row.kl, row.top1) == pytest.approx(
            (stored[row.policy, row.item].kl, stored[row.policy, row.item].top1)
        )
    # Baselines at equal cost are no points of the space.
    assert table["d_attn"].isna().any()
    assert set(table["d_attn"].dropna().astype(int)) <= set(range(13))
    assert set(table["split"]) == {"calibration"}


def test_an_export_of_another_kind_is_refused(folder, tmp_path):
    with pytest.raises(OpsearchError, match=naming("all.xlsx", ".parquet", ".csv")):
        export(folder, tmp_path / "all.xlsx")
