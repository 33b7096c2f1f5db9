"""The run that the suite of fronts writes is one that every stored command reads."""

import numpy as np
import pandas as pd
import pytest

from benchmarks.fronts import store_run
from opsearch.commands.export import export
from opsearch.commands.front import run_front
from opsearch.commands.solve import solve
from opsearch.measure.storage.store import Store
from opsearch.policy.builders import identity
from opsearch.policy.policy import Policy


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stored")
    return folder, store_run(folder, layers=3)


def test_the_front_and_the_solution_are_among_what_is_stored(stored):
    folder, known = stored
    found, path = run_front(folder)
    # The original is known without a measurement.
    assert f"{known + 1:,} of 225 policies" in found.sentence
    assert pd.read_csv(path)["value"].tolist() == found.table["value"].tolist()
    solved = solve(folder, out=folder / "again")
    problem, solution = solved.problem, solved.solution
    within = found.table[found.table["cost"] <= problem.constraints[0].limit]
    assert solution.value == within["value"].iloc[-1]


def test_values_are_the_means_of_what_is_stored_by_canonical_keys(stored):
    folder, _ = stored
    problem = solve(folder, out=folder / "again").problem
    samples, space = problem.constraints[0].samples, problem.space
    with Store(folder / "measurements.db") as store:
        kept = {}
        for m in store.everything():
            kept.setdefault(m.policy, []).append(m.kl)
    values = problem.objective.values
    original = identity(3).canonical(2880)
    for point, value in zip(space.points.tolist(), values, strict=True):
        key = space.decode(point).canonical(2880)
        kl = kept.get(key)
        assert key not in kept or len(kl) == samples
        # Only feasible points are looked up.
        assert np.isnan(value) == (kl is None) or key == original
        assert kl is None or value == pytest.approx(np.mean(kl), abs=1e-6)


def test_an_export_names_the_parameters_of_every_key(stored, tmp_path):
    folder, known = stored
    table = export(folder, tmp_path / "all.csv")
    assert len(table) == 4 * known
    assert table["d_kv"].notna().all()


def test_only_what_is_shown_is_decoded(stored, monkeypatch):
    """Neither a front nor an export makes a policy of every point."""
    folder, known = stored
    made, init = [], Policy.__post_init__
    monkeypatch.setattr(Policy, "__post_init__", lambda self: (made.append(1), init(self)))
    run_front(folder)
    export(folder, folder / "all.csv")
    assert len(made) < 10 < known
