"""The front of a run is exact where all was measured, and says where it is not."""

import re
from io import StringIO

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from opsearch import RunConfig
from opsearch.commands.cli.printing import print_front
from opsearch.commands.front import proof, run_front
from opsearch.commands.run import run
from opsearch.errors import RunFolderError, UnknownNameError
from tests.support.messages import naming

SETTINGS = {"samples": 3, "heldout": 0, "n_v": (".5",), "space": "tokens"}


def silent():
    return Console(file=StringIO())


def start(folder, **settings):
    return run(RunConfig(**{**SETTINGS, **settings}, out=folder), silent())


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Every policy of dop was measured."""
    settings = {"space": "dop", "objective": "joint", "complete": True, "budget": ("100%",)}
    return start(tmp_path_factory.mktemp("whole") / "run", **settings)


@pytest.fixture(scope="module")
def part(tmp_path_factory):
    """A run that measured the points within 40 %."""
    settings = {"space": "dop", "objective": "joint", "complete": True, "budget": ("40%",)}
    return start(tmp_path_factory.mktemp("part") / "run", **settings)


def test_every_point_is_proved_and_is_the_optimum_of_its_budget(whole):
    found, path = run_front(whole.folder)
    assert found.table["proved"].all()
    assert found.limit is None
    values, costs = whole.problem.objective.values, whole.problem.constraints[0].costs
    for cost, value in zip(found.table["cost"], found.table["value"], strict=True):
        assert value == values[costs <= cost].min()
        assert value not in values[costs < cost]
    # No budget has a lower value than the front: it is complete.
    at = np.searchsorted(found.table["cost"], costs, side="right") - 1
    assert (values >= found.table["value"].to_numpy()[at]).all()
    assert pd.read_csv(path)["cost"].tolist() == found.table["cost"].tolist()


def test_only_what_is_below_the_first_unknown_cost_is_proved(part):
    found, _ = run_front(part.folder)
    costs = part.problem.constraints[0].costs
    limit = part.problem.constraints[0].limit
    assert found.limit == costs[costs > limit].min()
    assert found.table["proved"].tolist() == (found.table["cost"] < found.limit).tolist()
    # The original is known without a measurement, and what lies between is not.
    assert found.table["proved"].iloc[-1] == np.False_
    assert found.table["value"].iloc[-1] == 0


def test_a_proved_part_is_that_of_the_whole_front(whole, part):
    exact, _ = run_front(whole.folder)
    found, _ = run_front(part.folder)
    proved = found.table[found.table["proved"]]
    pd.testing.assert_frame_equal(proved, exact.table[: len(proved)])
    assert exact.table["cost"][len(proved)] >= found.limit


def test_the_cache_is_another_cost_in_a_file_of_its_own(whole):
    found, path = run_front(whole.folder, "kv")
    assert path.name == "front_kv.csv"
    last = found.table.iloc[-1]
    assert (last["share"], last["value"]) == (1, 0)
    with pytest.raises(UnknownNameError, match="watts"):
        run_front(whole.folder, "watts")


def test_a_proxy_has_a_front_of_its_own(tmp_path):
    result = start(tmp_path / "run", objective="additive", budget=("80%",))
    found, _ = run_front(result.folder)
    assert (found.objective, found.table["proved"].all()) == ("additive", True)


def test_the_front_is_printed_with_its_proof(whole, part):
    for result in (whole, part):
        page = StringIO()
        found, path = run_front(result.folder)
        print_front(found, path, Console(file=page, width=120))
        size, policies = len(found.table), len(result.problem.space.points)
        assert re.search(naming(size, f"{policies:,}"), " ".join(page.getvalue().split()))
        assert page.getvalue().count("yes") == found.table["proved"].sum()
    assert "no" in page.getvalue().split()
    limit = found.constraint.describe(found.limit)
    assert re.search(naming(limit, "`opsearch run`"), " ".join(page.getvalue().split()))


def test_a_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(RunFolderError, match=naming(tmp_path / "run.yaml")):
        run_front(tmp_path)


def test_a_point_without_value_can_beat_any_that_costs_as_much():
    costs, values = np.array([1, 2, 2, 3]), np.array([5.0, 4.0, np.nan, 3.0])
    table, limit = proof(costs, values)
    assert (limit, table["proved"].tolist()) == (2, [True, False, False])


def test_a_point_cannot_beat_those_below_its_bound():
    costs, values = np.array([1, 2, 2, 3]), np.array([5.0, 4.0, np.nan, 3.0])
    for bound, proved in (
        (3.5, [True, False, True]),
        (4.0, [True, False, True]),
        (4.1, [True] * 3),
    ):
        lower = np.array([5.0, 4.0, bound, 3.0])
        assert proof(costs, values, lower)[0]["proved"].tolist() == proved
