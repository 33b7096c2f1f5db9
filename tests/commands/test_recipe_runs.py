"""Runs by FitPrune's own criterion and search, on the embedded model."""

import re
from io import StringIO

import pytest
import torch
from rich.console import Console

from opsearch import Policy, RunConfig
from opsearch.commands.analyze import analyze
from opsearch.commands.compare import compare
from opsearch.commands.front import run_front
from opsearch.commands.run import run
from opsearch.commands.solve import solve
from opsearch.errors import OpsearchError, RunFolderError
from opsearch.measure.storage.store import Store
from opsearch.problem.solution import Status
from opsearch.progress import Progress
from tests.measure.demo import model, samples
from tests.support.measured import stored_count
from tests.support.messages import naming

SETTINGS = {"space": "recipes", "samples": 4, "heldout": 0, "budget": ("40%",)}


def silent():
    return Console(file=StringIO(), width=200)


@pytest.fixture(scope="module")
def units():
    """Unit of each stage of the run, by title."""
    return {}


@pytest.fixture(scope="module")
def done(tmp_path_factory, units):
    stage = Progress.stage

    def recorded(self, title, unit=""):
        units[title] = unit
        return stage(self, title, unit)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Progress, "stage", recorded)
        return run(RunConfig(**SETTINGS, out=tmp_path_factory.mktemp("recipes") / "run"), silent())


def test_it_takes_the_criterion_and_the_search_of_fitprune(done):
    assert (done.config.objective, done.config.solver) == ("attention", "bisection")
    assert done.solution.status is Status.FEASIBLE
    assert 0.3 < done.comparison.loc["% of stock", "opsearch"] / 100 <= 0.4
    assert 0 < done.solution.value < 1
    assert " 0." in done.solution.note


def test_progress_counts_samples_and_no_flops(done, units):
    assert units["measuring attention, solving"] == ""
    assert "FLOPs" in units.values()


def test_the_report_names_no_step_that_recipes_refuse(done):
    page = (done.folder / "report.html").read_text()
    assert "<code>opsearch solve" in page
    assert re.search(r"\bspace dop or depth\b", page)


def test_the_saved_policy_runs(done):
    policy = Policy.from_pretrained(done.folder)
    assert policy.counts == done.solution.policy.counts
    inputs = samples(1)[0].inputs
    with torch.inference_mode():
        with policy.apply(model()):
            pruned = model()(**inputs).logits[0, -1]
        assert not pruned.equal(model()(**inputs).logits[0, -1])


def test_another_budget_needs_nothing_new(done, tmp_path):
    with Store(done.folder / "measurements.db") as store:
        before = stored_count(store)
    found = solve(done.folder, ["20%"], out=tmp_path / "again")
    tighter, folder = found.solution, found.folder
    assert tighter.value > done.solution.value
    assert Policy.from_pretrained(folder).counts == tighter.policy.counts
    with Store(done.folder / "measurements.db") as store:
        assert stored_count(store) == before


def test_a_run_that_did_not_read_attention_says_so(done, tmp_path):
    """As one of an older version: divergences are there, what tokens get is not."""
    folder = tmp_path / "older"
    folder.mkdir()
    for name in ("run.yaml", "measurements.db"):
        (folder / name).write_bytes((done.folder / name).read_bytes())
    with Store(folder / "measurements.db") as store:
        store._db.execute("DELETE FROM received")
    with pytest.raises(RunFolderError, match="--space recipes --objective attention`"):
        solve(folder, ["20%"])


def test_what_needs_a_list_is_refused(done):
    with pytest.raises(OpsearchError, match=naming("'attention'")):
        run_front(done.folder)
    with pytest.raises(OpsearchError, match=naming("'recipes'", "dop")):
        analyze("rank", [done.folder])
    with pytest.raises(OpsearchError, match=naming("'joint'", "--objective attention")):
        solve(done.folder, objective="joint")


def test_a_comparison_has_them_as_a_baseline_alone(done):
    with pytest.raises(OpsearchError, match=naming("recipes", "FitPrune")):
        compare(done.folder, ["30%"], samples=1, console=silent(), spaces=["recipes"])


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"space": "dop", "objective": "attention"}, ("'dop'", "--space recipes")),
        ({"objective": "joint"}, ("'joint'", "--objective attention", "stages")),
        ({"solver": "grid"}, ("'attention'", "--solver bisection")),
        ({"space": "dop", "solver": "bisection"}, ("'additive'", "--solver grid")),
        ({"verify": 8}, ("--verify", "'attention'")),
        ({"keep": "0"}, ("--keep 0", "'recipes'", "--space layers")),
        ({"budget": ("8%",)}, ("8%", "recipes", "--budget")),
    ],
)
def test_what_does_not_fit_is_refused_before_any_weights_are_loaded(tmp_path, settings, said):
    with pytest.raises(OpsearchError, match=naming(*said)):
        run(RunConfig(**{**SETTINGS, **settings}, out=tmp_path / "run"), silent())
    assert not (tmp_path / "run").exists()
