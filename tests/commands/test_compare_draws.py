"""`opsearch compare --draws` on the embedded model, really run."""

import io
import re

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

import opsearch
from opsearch.commands import compare as comparing
from opsearch.commands.analyze import analyze
from opsearch.commands.cli import call
from opsearch.commands.draws import compare_draws
from opsearch.errors import OpsearchError, RunFolderError
from opsearch.evaluation.answers import answer
from opsearch.evaluation.stored import stored_comparison
from opsearch.evaluation.stored_draws import stored_draws
from opsearch.measure.storage.records import COMPARED, COMPARED_CALIBRATION
from opsearch.measure.storage.store import Store
from opsearch.runs.config import RunConfig
from tests.report.page import Page, assert_harmless
from tests.support.measured import stored_count
from tests.support.messages import refuses

GIVEN = {"samples": 4, "spaces": ["tokens"]}


@pytest.fixture(scope="module")
def stopped_and_resumed(tmp_path_factory):
    """A comparison that Ctrl-C stopped in its second draw, and the same command again.

    Returns the folder, what was said when it resumed, and the numbers of measurements stored in
    draw 0 at both ends.
    """
    path = tmp_path_factory.mktemp("drawn") / "run"
    config = RunConfig(samples=2, space="dop", n_v=("1/2",), objective="additive", out=path)
    config.changed(budget=("80%",), evaluations=12).save(path.joinpath("run.yaml"))
    calls = []

    def stopped(*arguments, **given):
        calls.append(0)
        if len(calls) == 40:  # the first draw has fewer answers to generate
            raise KeyboardInterrupt
        return answer(*arguments, **given)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(comparing, "answer", stopped)
        with pytest.raises(KeyboardInterrupt):
            compare_draws(path, ["80%"], 2, console=_silent(), **GIVEN)
    with pytest.raises(RunFolderError, match=r"`opsearch compare .*run --draws"):
        stored_draws(path)
    assert stored_comparison(path / "draws" / "0").entries
    before, console = _stored(path, 0), _silent()
    compare_draws(path, ["80%"], 2, console=console, **GIVEN)
    return path, console.file.getvalue(), (before, _stored(path, 0))


@pytest.fixture(scope="module")
def folder(stopped_and_resumed):
    return stopped_and_resumed[0]


def _silent():
    return Console(file=io.StringIO(), width=200)


def _stored(path, draw):
    with Store(path / "draws" / str(draw) / "measurements.db") as store:
        return stored_count(store)


def test_stopped_draws_go_on_and_measure_nothing_twice(stopped_and_resumed):
    _, said, (before, after) = stopped_and_resumed
    assert before == after
    assert re.findall(r"^draw (\d/\d)", said, re.MULTILINE) == ["1/2", "2/2"]
    stages = re.findall(r"^(\d+)/(\d+) .*s$", said, re.MULTILINE)
    assert [pair for pair in stages if pair[0] == pair[1]] == [("13", "13"), ("12", "12")]


def test_all_draws_are_judged_on_the_same_test_items(folder):
    tested, calibration = [], []
    for draw in range(2):
        with Store(folder / "draws" / str(draw) / "measurements.db") as store:
            tested.append([sample.name for sample in store.samples(COMPARED)])
            calibration.append([sample.name for sample in store.samples(COMPARED_CALIBRATION)])
    assert tested[0] == tested[1] == [f"embedded/test/0/{i}" for i in range(4)]
    assert calibration == [[f"embedded/calibration/{d}/{i}" for i in range(2)] for d in range(2)]


def test_the_run_itself_takes_part_with_its_own_settings(folder):
    every = [{e.method: e for e in each.entries} for each in stored_draws(folder)]
    for found in every:
        assert re.match(r"dop\(", found["opsearch"].policy)
        assert found["opsearch"].share <= 0.8
        assert {"tokens joint", "FastV like", "GSOP", "pool"} <= set(found)
    # A draw is a run folder too, which can be solved again without a model.
    again = opsearch.solve(folder / "draws" / "1", budget="80%")
    assert again.policy.name == every[1]["opsearch"].policy


def test_the_tables_hold_what_the_draws_measured(folder, tmp_path):
    analysis, files = analyze("draws", [folder], out=tmp_path)
    names = ["draws.csv", "each_draw.csv", "draws.svg", "draws.html"]
    assert [file.name for file in files] == names
    found = pd.read_csv(tmp_path / "draws.csv").set_index("method")
    for method, row in found.iterrows():
        kl = [
            entry.kl.mean()
            for each in stored_draws(folder)
            for entry in each.entries
            if entry.method == method
        ]
        assert row["kl"] == pytest.approx(np.mean(kl))
        assert (row["kl_lowest"], row["kl_highest"]) == pytest.approx((min(kl), max(kl)))
    page = Page((tmp_path / "draws.html").read_text())
    assert_harmless(page)
    assert all(method in page.text for method in found.index)
    assert "2 draws" in analysis.text


def test_draws_that_were_changed_since_are_refused(folder):
    file = folder / "draws" / "1" / "measurements.db"
    with Store(file) as store:
        tested = store.samples(COMPARED)
        store.put_samples(COMPARED, tested[:-1])
        with refuses(RunFolderError, "opsearch compare", "--draws"):
            stored_draws(folder)
        store.put_samples(COMPARED, tested)


@pytest.mark.parametrize("draws", [1, 0, -2])
def test_one_draw_has_no_spread(folder, draws):
    with refuses(OpsearchError, f"--draws {draws}", 2):
        opsearch.compare(folder, ["80%"], draws=draws, progress=False)


def test_times_are_those_of_one_draw(folder, capsys):
    assert call(["compare", str(folder), "--draws=2", "--times"]) == 1
    assert re.search(r"error: .*--times.*--draws", " ".join(capsys.readouterr().err.split()))
