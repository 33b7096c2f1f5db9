"""The front of a run is exact where all was measured, and says where it is not."""

import re
from dataclasses import replace
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


@pytest.fixture(scope="module")
def summed(tmp_path_factory):
    """A run of the proxy over dop, whose front has more points than the terminal shows."""
    folder = tmp_path_factory.mktemp("summed") / "run"
    shares = tuple(f"{n}/24" for n in range(1, 25))
    return start(folder, space="dop", objective="additive", budget=("45%",), n_v=shares)


def printed(found, path, width=120):
    page = StringIO()
    print_front(found, path, Console(file=page, width=width))
    return page.getvalue()


def test_both_shares_of_flops_stand_side_by_side(whole):
    decoder, path = run_front(whole.folder)
    prefill, other = run_front(whole.folder, "prefill")
    assert decoder.table["value"].tolist() == prefill.table["value"].tolist()
    shares = list(zip(decoder.table["share"], prefill.table["share"], strict=True))
    both = [[f"{100 * share:.2f}" for share in pair] for pair in shares]
    front, reverse = printed(decoder, path, 200), printed(prefill, other, 200)
    assert re.search("cost, % +with vision, %", front)
    assert re.search("cost, % +of the decoder, %", reverse)
    for one, more in both:
        assert re.search(rf"^ *{one} +{more} ", front, re.MULTILINE)
        assert re.search(rf"^ *{more} +{one} ", reverse, re.MULTILINE)
    kv, path = run_front(whole.folder, "kv")
    assert "vision" not in printed(kv, path, 200)


def test_a_front_of_a_proxy_says_that_its_values_are_of_the_proxy(summed, whole):
    for result, title, said in (
        (summed, "additive proxy, nats", "proved for the proxy"),
        (whole, "joint, nats", "proved"),
    ):
        found, path = run_front(result.folder)
        assert (found.header, found.proof_label) == (title, said)
        text = printed(found, path)
        assert title in text.splitlines()[0]
        assert said in text.splitlines()[0]
        assert f"is {said}." in found.sentence


def test_the_answer_of_the_run_is_a_line_with_its_measured_kl(summed, whole):
    for result in (summed, whole):
        found, path = run_front(result.folder)
        measured = result.comparison.loc["KL calibration", "opsearch"]
        assert found.answer.policy == result.policy.name
        assert found.answer.cost == result.solution.costs["flops"]
        assert found.answer.kl == pytest.approx(measured, abs=1e-6)
        (line,) = [line for line in printed(found, path, 400).splitlines() if "answer" in line]
        cost = found.constraint.describe(found.answer.cost)
        assert re.search(naming(result.policy.name, cost, f"{found.answer.kl:.6f}"), line)
    assert found.answer.kl == result.value  # what joint minimizes


def test_the_cost_of_the_answer_is_that_of_the_front(summed):
    found, _ = run_front(summed.folder, "kv")
    n_visual, n_other = 64, 12
    policy, original = summed.policy, summed.policy.resolve(n_visual) * 0 + n_visual
    kept = policy.executed(n_visual)[:, 1].sum() / original[:, 1].sum()
    # Text tokens are in the cache too.
    assert kept < found.answer.cost / found.constraint.stock < kept + n_other / n_visual


def test_a_long_front_is_thinned_evenly_by_cost(summed):
    found, path = run_front(summed.folder)
    size, costs = len(found.table), found.table["cost"].tolist()
    assert size > 40
    shown = found.thinned(40)
    assert len(shown) == 40
    rows = shown.index.tolist()
    assert rows == sorted(rows)
    assert (rows[0], rows[-1]) == (0, size - 1)
    pd.testing.assert_frame_equal(shown, found.table.loc[rows])
    # The optimum of the run's budget is shown, and the next dearer point.
    limit = summed.problem.constraints[0].limit
    assert found.budgets == (limit,)
    within = max(row for row, cost in enumerate(costs) if cost <= limit)
    assert {within, within + 1} <= set(rows)
    # No point that is left out is as far from the shown ones as those are from each other.
    kept = np.array([costs[row] for row in rows], float)
    left_out = max(np.abs(kept - costs[row]).min() for row in range(size) if row not in rows)
    assert left_out <= np.sort(np.diff(kept))[4:].min()
    assert found.thinned(size) is found.table
    text = " ".join(printed(found, path).split())
    assert re.search(naming(40, size, path), text)
    assert text.count(" yes ") == 40
    assert len(pd.read_csv(path)) == size


@pytest.mark.parametrize("budgets", [(), (0,), (10**18,), (0, 10**18)])
def test_budgets_beyond_the_front_show_its_ends(whole, budgets):
    found = replace(run_front(whole.folder)[0], budgets=budgets)
    rows = found.thinned(5).index.tolist()
    assert len(rows) == 5
    assert (rows[0], rows[-1]) == (0, len(found.table) - 1)
