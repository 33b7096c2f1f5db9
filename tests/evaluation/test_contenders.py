"""The effort of a comparison is judged by the work of all its budgets together."""

from dataclasses import replace
from fractions import Fraction
from io import StringIO

import pytest
from rich.console import Console

from opsearch.errors import OpsearchError
from opsearch.evaluation.contenders import search_task
from opsearch.objectives.joint import Joint
from opsearch.objectives.joint_coarse import CoarseJoint
from opsearch.policy.ranker import RankerSpec
from opsearch.problem.spaces import SPACES
from opsearch.problem.spaces.operations import Operations
from opsearch.progress import Progress
from opsearch.runs.config import RunConfig
from opsearch.runs.prepare import prepare, settle
from opsearch.runs.setup import parse_budgets, resolve
from tests.support.messages import refuses

BUDGETS = "30%", "50% kv"  # neither holds all policies of the other


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    config = RunConfig(samples=1, heldout=0, n_v=("1/4", "1"), out=tmp_path_factory.mktemp("run"))
    return prepare(settle(config), Progress(Console(file=StringIO()), 1))


def chosen(prepared, effort, budgets):
    """The objective of `depth` within this effort."""
    within = replace(prepared, settings=replace(prepared.settings, effort=effort))
    return depth_task(within, budgets).objectives[-1]


def depth_task(prepared, budgets):
    silent = Progress(Console(file=StringIO()), 1)
    return search_task("depth", parse_budgets(budgets), prepared, silent)


def test_budgets_that_each_fit_the_effort_may_not_together(prepared):
    task = depth_task(prepared, BUDGETS)
    estimate = replace(prepared.effort_estimate, space=task.space)
    apart = [replace(estimate, constraints=limit).joint_seconds for limit in task.limits.values()]
    assert [type(chosen(prepared, max(apart), [text])) for text in BUDGETS] == [Joint, Joint]
    assert isinstance(chosen(prepared, max(apart), BUDGETS), CoarseJoint)
    assert isinstance(chosen(prepared, sum(apart), BUDGETS), Joint)


class Shares(Operations):
    """Operations of a half of the tokens too: several counts, and no stages to give up."""

    @staticmethod
    def from_settings(settings):
        shares = (Fraction(1, 2), Fraction(1))
        return replace(Operations.from_settings(settings), shares=shares)


def test_only_a_space_of_stages_falls_back_to_one(prepared, monkeypatch):
    monkeypatch.setitem(SPACES, "shares", Shares())
    config = prepared.config.changed(space="layers", n_v=("1/2", "1/4"), ranker=None)
    ranker = RankerSpec("vispruner")
    settings = resolve(config, prepared.shape.layers, ranker)
    said = Progress(console := Console(file=StringIO()), 1)
    other = replace(prepared, settings=settings, ranker=ranker)
    budgets = parse_budgets(["80%"])
    assert search_task("stages", budgets, other, said).space.most_counts == 1
    assert "one layer only" in console.file.getvalue()
    with refuses(OpsearchError, "vispruner", "nested"):
        search_task("shares", budgets, other, said)
    assert console.file.getvalue().count("one layer only") == 1
