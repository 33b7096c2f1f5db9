"""Runs side by side: every number is that of the run, and only runs judged alike are compared."""

import json
import re

import pandas as pd
import pytest

from opsearch import RunConfig
from opsearch.analysis import outcomes
from opsearch.analysis.outcomes import SAME, Outcome
from opsearch.commands.analyze import analyze
from opsearch.errors import OpsearchError, RunFolderError
from opsearch.runs.stored import stored_outcome
from tests.support.messages import naming

ALIKE = dict.fromkeys(SAME, 1)


def outcome(label, space, objective, kl, *, verify=0, status="feasible", budget="30%", **changes):
    record = {
        "settings": {
            **ALIKE,
            "objective": objective,
            "ranker": "cls",
            "verify": verify,
            **changes,
        },
        "space": space,
        "budget": [budget],
        "status": status,
        "solver": "local",
        "value": kl,
        "evaluations": 3,
    }
    rows = {"% of stock": 29.0, "KL calibration": kl, "KL held-out": 2 * kl, "Rel. Avg., %": 80.0}
    return Outcome(label, record, pd.DataFrame({"original": 0.0, "opsearch": rows}))


RUNS = [
    outcome("a", "dop", "joint", 0.5, status="optimal"),
    outcome("b", "layers", "pairwise", 0.4, verify=8),
    outcome("c", "layers", "joint", 0.3),
]


def test_searches_are_named_by_what_tells_them_apart():
    found = outcomes.table(RUNS)
    assert dict(zip(found["run"], found["search"], strict=True)) == {
        "a": "joint",
        "b": "pairwise, verified",
        "c": "joint, local",
    }
    assert found.set_index("run").loc["b", ["kl_calibration", "kl_heldout"]].tolist() == [0.4, 0.8]
    assert found["proved"].tolist() == [True, False, False]


def test_runs_that_differ_in_their_ranker_alone_are_told_apart():
    runs = [outcome(ranker, "dop", "joint", 0.5, ranker=ranker) for ranker in ("cls", "divprune")]
    found = outcomes.table(runs)
    assert found["search"].tolist() == ["joint, local, cls", "joint, local, divprune"]
    assert len(outcomes.draw(found).axes[0].get_lines()) == 1 + len(runs)  # and the lowest of all


def test_the_closest_run_of_each_budget_is_named():
    found = outcomes.table([*RUNS, outcome("d", "dop", "joint", 0.01, budget="50%")])
    text = outcomes.describe(found)
    assert re.search(r"\b30%[^.]*\blayers \(joint, local\)", text)
    assert re.search(r"\b50%[^.]*\bdop \(joint, local\)[^.]* 0\.010 nats", text)
    assert re.match(r"4 runs\b", text)
    assert re.match(r"1 run\b.*\b30%.*\bdop\b", outcomes.describe(outcomes.table(RUNS[:1])))


def test_every_space_has_a_panel_and_every_search_a_line():
    figure = outcomes.draw(outcomes.table(RUNS))
    assert [axes.get_title() for axes in figure.axes] == ["dop", "layers"]
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert names == ["joint", "joint, local", "pairwise, verified"]


def test_runs_that_were_not_judged_alike_are_refused():
    other = outcome("e", "dop", "joint", 0.1, heldout=2)
    with pytest.raises(OpsearchError, match=r"\be\b.*\bheldout 2\b.*\ba\b.*\b1\b"):
        outcomes.table([*RUNS, other])


@pytest.mark.parametrize("kind", ["outcomes", "pareto", "tables"])
def test_another_space_is_refused_where_it_would_change_nothing(tmp_path, kind):
    with pytest.raises(OpsearchError, match=naming("--space depth", kind)):
        analyze(kind, [tmp_path], "depth")


def test_an_unfinished_run_is_refused(tmp_path):
    with pytest.raises(RunFolderError, match=naming(tmp_path / "run.yaml")):
        stored_outcome(tmp_path)
    RunConfig().save(tmp_path / "run.yaml")
    (tmp_path / "solution.json").write_text(json.dumps({"space": "dop"}))
    with pytest.raises(RunFolderError, match=naming(tmp_path, "`opsearch run --config")):
        stored_outcome(tmp_path)
