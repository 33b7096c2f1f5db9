"""What a comparison can afford to measure is told by the work of all its budgets together."""

from dataclasses import replace
from io import StringIO

import pytest
from rich.console import Console

from opsearch.evaluation.contenders import search_task
from opsearch.objectives.joint import Joint
from opsearch.objectives.joint_coarse import CoarseJoint
from opsearch.progress import Progress
from opsearch.runs.config import RunConfig
from opsearch.runs.prepare import prepare

BUDGETS = "30%", "50% kv"  # neither holds all policies of the other


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    config = RunConfig(samples=1, heldout=0, n_v=("1/4", "1"), out=tmp_path_factory.mktemp("run"))
    return prepare(config, Progress(Console(file=StringIO()), 1))


def chosen(prepared, effort, budgets):
    """The objective of `depth` within this effort."""
    within = replace(prepared, config=prepared.config.model_copy(update={"effort": effort}))
    return search_task("depth", budgets, within, Progress(Console(file=StringIO()), 1)).makers[-1]


def test_budgets_that_each_fit_the_effort_may_not_together(prepared):
    space, limits = task_of(prepared)
    planned = replace(prepared.planned, space=space)
    apart = [replace(planned, constraints=limit).joint_seconds for limit in limits.values()]
    assert [type(chosen(prepared, max(apart), [text])) for text in BUDGETS] == [Joint, Joint]
    assert isinstance(chosen(prepared, max(apart), BUDGETS), CoarseJoint)
    assert isinstance(chosen(prepared, sum(apart), BUDGETS), Joint)


def task_of(prepared):
    """The space and, for each budget, its limits."""
    task = search_task("depth", BUDGETS, prepared, Progress(Console(file=StringIO()), 1))
    return task.space, task.limits
