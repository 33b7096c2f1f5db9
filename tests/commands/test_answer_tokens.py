"""--answer-tokens of run and eval; each command says how many answers were cut."""

import json
import re

import pandas as pd
import pytest

import opsearch
from opsearch.commands.cli import call
from opsearch.report.page import save_report
from opsearch.runs.config import RunConfig
from tests.support.messages import naming, refuses

SMALL = ["--samples=2", "--heldout=3", "--n-v=.5", "--objective=additive", "--budget=60%"]


@pytest.fixture(scope="module")
def cut(tmp_path_factory):
    """The folder of a run whose answers have one token, so that none has an end token."""
    folder = tmp_path_factory.mktemp("cut") / "run"
    assert call(["run", *SMALL, "--answer-tokens=1", f"--out={folder}"]) == 0
    return folder


def said(capsys):
    captured = capsys.readouterr()
    return " ".join((captured.out + captured.err).split())


def test_a_run_says_how_many_answers_were_cut_also_when_it_resumes(cut, capsys):
    assert RunConfig.load(cut / "run.yaml").answer_tokens == 1
    assert call(["run", "--config", str(cut / "run.yaml")]) == 0
    printed = said(capsys)
    parts = "3 of 3", "the original", "other methods", "--answer-tokens 128"
    assert re.search(naming(*parts), printed)
    table = pd.read_csv(cut / "comparison.csv", index_col=0)
    assert (table.loc["answers cut, %"] == 100).all()
    assert "answers cut, %" in printed


def test_the_report_says_it(cut):
    page = save_report(cut).read_text()
    assert "3 of 3 answers of the original and 3 of the policy were cut at 1 token;" in page
    assert "answers cut, %" in page


def test_without_cut_answers_nothing_is_said_and_older_records_are_read(cut, tmp_path, capsys):
    """A record of an earlier version lacks the setting, which had one value then."""
    assert call(["run", *SMALL, f"--out={tmp_path}"]) == 0
    assert "answers cut" not in said(capsys)
    assert "were cut" not in (tmp_path / "report.html").read_text()
    record = json.loads((tmp_path / "solution.json").read_text())
    del record["settings"]["answer_tokens"]
    (tmp_path / "solution.json").write_text(json.dumps(record))
    save_report(tmp_path)
    assert call(["analyze", "outcomes", str(tmp_path)]) == 0
    assert call(["analyze", "outcomes", str(tmp_path), str(cut)]) == 1
    assert re.search(naming("answer_tokens", 1), said(capsys))


def test_eval_says_it(cut, capsys):
    assert call(["eval", str(cut), "--samples=2"]) == 0
    assert "--answer-tokens" not in said(capsys)
    assert call(["eval", str(cut), "--samples=2", "--answer-tokens=1"]) == 0
    assert re.search(naming("2 of 2", "2 of the policy", "--answer-tokens 128"), said(capsys))
    assert call(["eval", str(cut), "--tasks=embedded_color", "--answer-tokens=1"]) == 1
    assert re.search(naming("--answer-tokens 1", "--tasks"), said(capsys))


@pytest.mark.slow
def test_compare_takes_the_length_from_the_run_and_says_it(cut, capsys):
    given = ["--samples=2", "--space=tokens", "--budget=50%", "--effort=0"]
    for _ in range(2):
        assert call(["compare", str(cut), *given]) == 0
        printed = said(capsys)
        parts = "2 of 2", "the original", cut / "run.yaml", "--answer-tokens 128"
        assert re.search(naming(*parts), printed)
    assert "answers of the original and up to 2 of another method" in printed
    assert "were cut" in (cut / "pareto.html").read_text()


def test_the_python_api_takes_it():
    model, processor = opsearch.load_model("demo")
    items = opsearch.load_items("demo", samples=2)
    scores = opsearch.evaluate(
        model, processor, items, opsearch.builders.vtw(12, 6), answer_tokens=1, progress=False
    )
    assert re.search(naming("2 of 2", "--answer-tokens 128"), scores.cut)


@pytest.mark.parametrize("tokens", [0, -3])
def test_a_length_below_1_is_refused(tokens):
    with refuses(opsearch.OpsearchError, "--answer-tokens", tokens):
        RunConfig.checked(answer_tokens=tokens)
