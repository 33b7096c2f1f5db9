"""A budget of time at the command line: fitted once, kept in the folder, held against reality."""

import json
import re
import shutil

import pytest

from opsearch.commands.cli import call
from opsearch.models.spec import ModelSpec
from opsearch.runs.latency_file import read_table
from tests.support.messages import naming

SMALL = ["--samples=4", "--heldout=0", "--n-v=.5,.25", "--objective=joint"]


@pytest.fixture(scope="module")
def timed(tmp_path_factory):
    """The folder of a run within a share of the original's prefill time."""
    folder = tmp_path_factory.mktemp("timed") / "run"
    assert call(["run", *SMALL, "--budget=90%latency", f"--out={folder}"]) == 0
    return folder


@pytest.fixture
def copy(timed, tmp_path):
    shutil.copytree(timed, tmp_path / "copy")
    return tmp_path / "copy"


def said(capsys):
    captured = capsys.readouterr()
    return " ".join((captured.out + captured.err).split())


def test_a_run_again_uses_the_table_and_says_predicted_and_real_time(timed, copy, capsys):
    assert call(["run", f"--config={copy / 'run.yaml'}", f"--out={copy}"]) == 0
    text = said(capsys)
    sides = r"predicted [\d.]+ ms, real [\d.]+ ms"
    assert re.search(rf"prefill .*\b\d+ .*\b\d+ .*{sides}; .*{sides}", text)
    assert re.search(r"latency [\d.]+% \([\d.]+ ms\) .*\b90% \([\d.]+ ms\); .*[\d.]+ ms", text)
    kept = json.loads((copy / "environment.json").read_text())["prefill_ms"]
    assert min(kept.values()) > 0
    assert (copy / "latency.json").read_text() == (timed / "latency.json").read_text()
    first, again = (json.loads((at / "solution.json").read_text()) for at in (timed, copy))
    assert again["costs"] == first["costs"]


def test_the_front_over_time_needs_such_a_run(copy, capsys):
    assert call(["front", str(copy), "--cost=latency"]) == 0
    assert re.search(r"[\d.]+ ms .*\bjoint\b.*\blatency\b", said(capsys))
    (copy / "latency.json").unlink()
    assert call(["front", str(copy), "--cost=latency"]) == 1
    assert re.search(naming(copy, "`opsearch run --config", "50%latency"), said(capsys))


def test_another_decoder_gets_a_table_of_its_own(copy):
    path = copy / "latency.json"
    table = json.loads(path.read_text())
    path.write_text(json.dumps(table | {"place": "another machine"}))
    assert call(["run", f"--config={copy / 'run.yaml'}", f"--out={copy}"]) == 0
    assert read_table(path).place == table["place"]


def test_solving_again_takes_the_stored_table_and_no_model(copy, capsys, monkeypatch):
    monkeypatch.setattr(ModelSpec, "load", None)
    stock = json.loads((copy / "solution.json").read_text())["stock"]["latency"] / 4 / 1e6
    assert call(["solve", str(copy), f"--budget={0.97 * stock:.6f}ms"]) == 0
    assert f" 97% ({0.97 * stock:.4g} ms)" in said(capsys)
    for solver in ("grid", "ortools"):
        options = ["--budget=93%latency", "--objective=additive", f"--solver={solver}"]
        assert call(["solve", str(copy), *options, f"--out={copy / solver}"]) == 0
    grid, ortools = (
        json.loads((copy / solver / "solution.json").read_text()) for solver in ("grid", "ortools")
    )
    assert ortools["point"] == grid["point"]
    assert ortools["status"] == "optimal"


def test_an_impossible_time_is_answered_with_the_range(copy, capsys):
    assert call(["solve", str(copy), "--budget=1us"]) == 1
    assert re.search(r" ms\) to 100%.* --budget [\d.]+%latency", said(capsys))


def test_a_refused_run_leaves_the_folder_as_it_was(copy, monkeypatch):
    table = read_table(copy / "latency.json")
    monkeypatch.setattr("opsearch.runs.prepare.fit_latency", lambda *given: table)
    (copy / "latency.json").unlink()
    before = sorted(copy.iterdir())
    assert call(["run", *SMALL, "--budget=1us", f"--out={copy}"]) == 1
    assert call(["run", *SMALL, "--budget=90%latency", "--dry-run", f"--out={copy}"]) == 0
    assert sorted(copy.iterdir()) == before


def test_a_run_without_a_table_says_how_to_fit_one(copy, capsys):
    (copy / "latency.json").unlink()
    assert call(["solve", str(copy), "--budget=90%latency"]) == 1
    again = r"`opsearch run --config .* --budget 50%latency`"
    assert re.search(again, said(capsys))


def test_a_shape_without_a_model_cannot_be_timed(capsys):
    assert call(["run", "--dry-run", "--shape=llava-1.5-7b", "--budget=100ms"]) == 1
    assert re.search(naming("error: ", "budget"), said(capsys))
