"""`opsearch solve --verify` measures what the proxy proposes, as `opsearch run --verify` does."""

import re
import shlex
import shutil
from io import StringIO

import pytest
from rich.console import Console

from opsearch import Policy, RunConfig
from opsearch.commands.cli import call
from opsearch.commands.export import measurements
from opsearch.commands.run import run
from opsearch.commands.solve import solve
from opsearch.commands.verified_solve import solve_verified
from opsearch.errors import OpsearchError, RunFolderError
from opsearch.measure.storage.store import Store
from tests.support.messages import naming, refuses

SETTINGS = {"space": "operations", "samples": 2, "heldout": 0, "budget": ("40%",)}
FEW = {"verify": 2, "evaluations": 4}


def silent():
    return Console(file=StringIO(), width=200)


@pytest.fixture(scope="module")
def proxy(tmp_path_factory):
    """A run whose proxy was not verified."""
    folder = tmp_path_factory.mktemp("proxy") / "run"
    return run(RunConfig(**SETTINGS, objective="additive", out=folder), silent())


@pytest.fixture
def copied(proxy, tmp_path):
    shutil.copytree(proxy.folder, tmp_path / "run")
    return tmp_path / "run"


def test_it_finds_what_a_run_with_verification_finds(copied, tmp_path):
    whole = run(RunConfig(**SETTINGS, **FEW, objective="additive", out=tmp_path / "b"), silent())
    found = solve_verified(copied, **FEW, console=silent())
    assert found.policy.counts == whole.policy.counts
    assert (found.value, found.solution.costs) == (whole.value, whole.solution.costs)
    assert found.folder.parent == copied / "answers"
    assert Policy.from_pretrained(found.folder) == found.policy
    assert RunConfig.load(found.folder / "run.yaml").verify == 2
    assert found.comparison is None
    assert not (found.folder / "comparison.csv").exists()
    assert "report.html" in {file.name for file in found.folder.iterdir()}
    assert (copied / "comparison.csv").exists()


def test_it_measures_the_best_policies_on_the_samples_of_the_run(proxy, copied):
    before = measurements(copied)
    found = solve_verified(copied, **FEW, console=silent())
    after = measurements(copied)
    new = after[~after["policy"].isin(set(before["policy"]))]
    assert 1 <= new["policy"].nunique() <= 4
    assert set(new["item"]) == set(before["item"])
    key = found.policy.canonical(int(after["n_visual"].iloc[0]))
    measured = after[after["policy"] == key]["kl"]
    assert len(measured) == 2
    assert found.value == pytest.approx(measured.mean(), abs=1e-6)
    # The proxy's own optimum is among the measured ones.
    first = proxy.comparison.loc["KL calibration", "opsearch"]
    assert found.value <= first + 1e-6
    # Once more, all is known.
    again = solve_verified(copied, **FEW, console=silent())
    assert again.value == found.value
    assert len(measurements(copied)) == len(after)


def test_another_budget_in_another_folder_keeps_the_answer(copied, tmp_path, capsys):
    policy = (copied / "policy_config.json").read_text()
    options = ["--verify", "1", "--evaluations", "1", "--budget", "60%"]
    assert call(["solve", str(copied), *options, "--out", str(tmp_path / "other")]) == 0
    assert (copied / "policy_config.json").read_text() == policy
    assert (copied / "comparison.csv").exists()
    other = Policy.from_pretrained(tmp_path / "other")
    assert other.provenance["budget"] == ["60%"]
    assert other.name in capsys.readouterr().out


def test_only_a_proxy_is_verified(copied):
    named = naming("--verify", "'joint'", "--objective additive")
    with pytest.raises(OpsearchError, match=named):
        solve_verified(copied, 2, objective="joint", console=silent())


def test_a_solve_without_it_names_it(copied):
    verified = solve_verified(copied, **FEW, console=silent()).folder
    found = solve(verified, budget=["60%"])
    assert Policy.from_pretrained(found.folder).provenance["verify"] == 0
    assert RunConfig.load(found.folder / "run.yaml").verify == 2
    (command,) = re.findall("`opsearch ([^`]+)`", found.solution.note)
    assert call([*shlex.split(command), "--evaluations", "1"]) == 0
    (named,) = (verified.parent).glob("verified-*-60")
    assert Policy.from_pretrained(named).provenance["budget"] == ["60%"]


def test_data_that_changed_are_refused_before_anything_is_written(copied):
    """The samples of the run are drawn again from the data."""
    with Store(copied / "measurements.db") as store:
        samples = store.calibration()
        store.put_samples("calibration", samples[1:])
    with refuses(RunFolderError, copied, "changed"):
        solve_verified(copied, **FEW, console=silent())
    assert not (copied / "answers").exists()


def test_a_folder_of_another_origin_is_refused_before_the_model_is_loaded(copied, tmp_path):
    (tmp_path / "report.html").write_text("mine")
    with refuses(RunFolderError, tmp_path / "report.html", "--replace"):
        solve_verified(copied, **FEW, out=tmp_path, console=silent())
