"""The Python API gives what the command line gives, on models and items in memory."""

import gc
import logging
import re
import tempfile
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from PIL import Image

import opsearch
from opsearch.commands import python_api
from opsearch.commands.cli import call
from opsearch.errors import InfeasibleBudgetError, RunFolderError
from opsearch.measure.storage.store import Store
from opsearch.models.spec import ModelSpec
from opsearch.objectives.additive import Additive
from opsearch.problem.spaces.depth import depth_space
from opsearch.progress import Progress
from opsearch.runs.run_folder import RunFolder
from opsearch.solvers.grid import Grid
from tests.support.messages import naming, refuses

SETTINGS = {"space": "tokens", "n_v": (".5", ".25"), "seed": 3, "budget": "80%"}


@pytest.fixture(scope="module")
def demo():
    return opsearch.load_model("demo")


@pytest.fixture(scope="module")
def items():
    return opsearch.load_items("demo", samples=4, seed=3)


@pytest.fixture(scope="module")
def heldout():
    return opsearch.load_items("demo", samples=6, split="held-out", seed=3)


@pytest.fixture(scope="module")
def found(demo, items, heldout):
    return opsearch.search(*demo, items, heldout=heldout, progress=False, **SETTINGS)


def test_the_result_is_that_of_the_command_line(found, tmp_path):
    options = ["--space", "tokens", "--n-v", ".5,.25", "--seed", "3", "--budget", "80%"]
    options += ["--samples", "4", "--heldout", "6"]
    assert call(["run", *options, "--out", str(tmp_path / "run")]) == 0
    run = opsearch.Run(tmp_path / "run")
    assert run.solution["value"] == found.value
    assert run.solution["point"] == found.solution.point
    assert run.policy == found.policy
    np.testing.assert_array_equal(run.comparison, found.comparison)


def test_held_out_items_in_common_with_calibration_are_said(demo, items, caplog):
    new = opsearch.load_items("demo", samples=1, split="held-out")
    heldout = [replace(items[0], question="what ?"), *new]
    with caplog.at_level(logging.INFO, "opsearch"):
        found = opsearch.search(*demo, items, heldout=heldout, progress=False, **SETTINGS)
    assert any(re.search(naming("1 of 2 held-out"), line) for line in caplog.messages)
    assert opsearch.Run(found.folder).unseen(heldout) == new


def test_a_result_shows_itself(found):
    name, shown = found.policy.name, found._repr_html_()
    assert name in repr(found)
    assert f"{found.value:.4g}" in repr(found)
    assert "<svg" in shown
    assert name in shown
    assert f"{found.comparison.loc['accuracy, %', 'opsearch']:.2f}".rstrip("0") in shown


def test_a_saved_result_is_a_run_folder(found, tmp_path):
    folder = found.save(tmp_path / "run")
    assert RunFolder(folder).report.exists()
    assert opsearch.RunConfig.load(RunFolder(folder).config).out == folder
    assert opsearch.Policy.from_pretrained(folder) == found.policy
    again = opsearch.solve(folder, budget="90%", out=tmp_path / "other")
    assert again.folder == tmp_path / "other"
    assert again.value <= found.value
    table = opsearch.front(folder).table
    assert found.value in table["value"].to_numpy()
    assert set(opsearch.Run(folder).measurements["split"]) == {"calibration", "held-out"}
    with refuses(RunFolderError, folder):
        found.save(folder)


@pytest.mark.parametrize("wrong", ["calib.jsonl", [{"question": "?"}], []])
def test_items_of_another_kind_are_refused(demo, wrong):
    with refuses(opsearch.OpsearchError, "item"):
        opsearch.search(*demo, wrong, **SETTINGS, progress=False)


@pytest.mark.parametrize("budgets", ["80%", opsearch.Budget.parse("80%"), ["80%", "70%"]])
def test_budgets_of_a_comparison_are_given_as_elsewhere(budgets, monkeypatch):
    received = []

    def remember(folder, texts, **settings):
        received.extend(texts)
        raise opsearch.OpsearchError

    monkeypatch.setattr(python_api, "compare_run", remember)
    with pytest.raises(opsearch.OpsearchError):
        opsearch.compare("run", budgets)
    assert received == (budgets if isinstance(budgets, list) else ["80%"])


def test_a_saved_result_does_not_take_other_data_for_its_own(found, tmp_path):
    folder = found.save(tmp_path / "run")
    with refuses(opsearch.OpsearchError, "--data"):
        opsearch.compare(folder, ["80%"], samples=2, progress=False)


def test_another_solve_of_its_folder_leaves_a_result_as_it_is(demo, items, tmp_path):
    found = opsearch.search(*demo, items, out=tmp_path / "run", progress=False, **SETTINGS)
    view, before = opsearch.Run(tmp_path / "run"), found.solution.policy.counts
    other = opsearch.solve(tmp_path / "run", budget="40%")
    assert found.policy.counts == before != other.policy.counts
    assert (view.policy, view.config.budget) == (found.policy, found.config.budget)
    (answer,) = view.answers.values()
    assert (answer.policy, answer.config.budget) == (other.policy, ("40%",))
    assert answer.solution["value"] == other.value
    assert found != other
    replaced = opsearch.solve(tmp_path / "run", budget="40%", replace=True)
    assert (view.policy, view.config.budget) == (replaced.policy, ("40%",)), "a view follows"


def test_a_failed_search_leaves_no_folder(demo, items, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    for wrong in (
        {"nonsense": 1},
        {"budget": "1%"},
        {"budget": 0.4},
        {"budget": [0.4]},
        {"solver": "nonsense"},
    ):
        with pytest.raises(opsearch.OpsearchError):
            opsearch.search(*demo, items, progress=False, **{**SETTINGS, **wrong})
    assert list(tmp_path.iterdir()) == []
    found = opsearch.search(*demo, items, progress=False, **SETTINGS)
    assert found.folder in tmp_path.iterdir()
    del found
    gc.collect()
    assert list(tmp_path.iterdir()) == []


def test_a_budget_of_time_needs_the_whole_model_on_one_device(demo, items, monkeypatch):
    checked = []
    monkeypatch.setattr(ModelSpec, "check", lambda self, feature=None: checked.append(feature))
    for budget, words in ("1%", None), ("1%latency", "a budget of time"):
        with pytest.raises(InfeasibleBudgetError):
            opsearch.search(*demo, items, progress=False, **{**SETTINGS, "budget": budget})
        assert checked[-1] == words


def test_parts_may_be_objects(demo, items, tmp_path):
    space = depth_space(12, (Fraction(1, 2),), opsearch.RankerSpec("uniform"))
    parts = {"space": space, "objective": Additive(points=5), "solver": Grid()}
    budget = opsearch.Budget.parse("60%")
    out = tmp_path / "run"
    found = opsearch.search(*demo, items, budget=budget, out=out, progress=False, **parts)
    assert set(found.solution.point) == {"d_q", "d_kv", "d_mlp", "n_v"}
    assert (found.solution.objective, found.solution.solver) == ("additive", "grid")
    assert found.solution.costs["flops"] <= found.problem.constraints[0].limit
    assert found.config.ranker == "uniform", "the ranker of the space"
    for work in (opsearch.solve, opsearch.front):
        with refuses(opsearch.OpsearchError, "'depth'", "object", "search again"):
            work(out)


def test_items_may_be_made_in_memory(demo):
    image = Image.new("RGB", (56, 56), "red")
    items = [opsearch.Item(str(n), f"what color is shape {n}?", (), (image,)) for n in range(2)]
    found = opsearch.search(*demo, items, progress=False, **SETTINGS)
    assert found.problem.constraints[0].samples == 2
    assert found.comparison.loc["KL calibration", "original"] == 0


def test_kl_is_that_of_the_search(demo, items, found, tmp_path):
    policies = [found.policy, opsearch.builders.identity(12)]
    kept = tmp_path / "kept.db"
    kl = opsearch.measure_kl(*demo, items, policies, store=kept)
    assert kl.shape == (2, 4)
    assert kl[0].mean() == pytest.approx(found.value, abs=1e-6)
    assert not kl[1].any()
    np.testing.assert_array_equal(opsearch.measure_kl(*demo, items, policies, store=kept), kl)
    more = opsearch.measure_kl(*demo, items, policies, positions=2, store=kept)
    np.testing.assert_array_equal(
        more, opsearch.measure_kl(*demo, items, policies, positions=2), "not those of one position"
    )
    assert (more[0] != kl[0]).any()


def test_evaluate_answers_with_both(demo, heldout, found):
    scores = opsearch.evaluate(*demo, heldout, found.policy, progress=False)
    share = found.comparison.loc["Rel. Avg., %", "opsearch"]
    assert 100 * scores.relative == pytest.approx(share)
    other = replace(found.policy, counts=found.policy.counts[:5])
    with pytest.raises(opsearch.OpsearchError):
        opsearch.evaluate(*demo, heldout, other, progress=False)


def test_an_impossible_budget_raises_with_the_range(demo, items):
    with refuses(InfeasibleBudgetError, "1%", "--budget"):
        opsearch.search(*demo, items, budget="1%", progress=False)


def test_an_unknown_setting_names_itself(demo, items):
    with refuses(opsearch.OpsearchError, "nonsense"):
        opsearch.search(*demo, items, nonsense=1, progress=False)


def test_the_logger_gets_the_stages(demo, items, caplog):
    with caplog.at_level(logging.INFO, "opsearch"):
        opsearch.search(*demo, items, progress=False, **SETTINGS)
    stages = [record.message.split()[0] for record in caplog.records if "/" in record.message]
    total = len(stages)
    assert stages == [f"{n}/{total}" for n in range(1, total + 1)]


def test_an_interrupted_search_resumes_in_its_folder(demo, items, tmp_path, monkeypatch):
    """Ctrl-C after the first stage of measuring; the same call measures only what is missing."""

    def interrupt(self, text):
        if "solving" in text:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Progress, "say", interrupt)
        with pytest.raises(KeyboardInterrupt):
            opsearch.search(*demo, items, out=tmp_path, progress=False, **SETTINGS)
    kept = stored(tmp_path)
    assert kept
    added = []
    add = Store.add
    monkeypatch.setattr(Store, "add", lambda self, rows: add(self, added.extend(rows) or rows))
    opsearch.search(*demo, items, out=tmp_path, progress=False, **SETTINGS)
    assert added
    assert not kept & {(row.policy, row.item) for row in added}


def stored(folder):
    with Store(RunFolder(folder).measurements) as store:
        return {(row.policy, row.item) for row in store.everything()}


def test_load_items_reads_files(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    file = tmp_path / "data.jsonl"
    file.write_text('{"image": "a.png", "question": "what?", "answer": "a"}\n' * 3)
    assert len(opsearch.load_items(file, samples=2)) == 2
    assert len(opsearch.load_items(str(file))) == 3


def test_public_names_are_there():
    for name in opsearch.__all__:
        assert getattr(opsearch, name) is not None
    assert dir(opsearch) == sorted(opsearch.__all__)
    with pytest.raises(AttributeError, match="nonsense"):
        _ = opsearch.nonsense
