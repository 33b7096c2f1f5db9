"""Without --effort, a search may take the time that its model needs on its device."""

import re
from dataclasses import replace

import pytest
from rich.console import Console

from opsearch import RunConfig
from opsearch.commands.dry_run import dry_run
from opsearch.errors import OpsearchError
from opsearch.progress import Progress
from opsearch.runs.choose import choose_by_estimate
from opsearch.runs.effort import LEAST_EFFORT
from opsearch.runs.prepare import prepare, settle
from opsearch.runs.relaxed import plan_descent
from tests.support.messages import refuses

SILENT = Console(quiet=True)


def plan(shape, **settings):
    return dry_run(RunConfig(**settings), shape, SILENT)


def test_the_embedded_model_has_a_minute(monkeypatch):
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    prepared = prepare(settle(RunConfig(samples=4, heldout=0)), Progress(None, 1))
    assert (prepared.config.effort, prepared.settings.effort) == (60.0, 60.0)
    given = prepare(settle(RunConfig(samples=4, heldout=0, effort=5)), Progress(None, 1))
    assert (given.config.effort, given.settings.effort) == (5.0, 5.0)


def test_searches_at_several_image_settings_share_the_effort(monkeypatch):
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    prepared = prepare(settle(RunConfig(samples=64, heldout=0, effort=30)), Progress(None, 1))
    alone, third = (
        plan_descent(replace(prepared.effort_estimate, parts=parts), 30) for parts in (1, 3)
    )
    assert 20 < alone.seconds <= 30
    assert 7 < third.seconds <= 10
    with refuses(OpsearchError, "--effort 1 ", "take about"):
        plan_descent(replace(prepared.effort_estimate, parts=3), 1)


def test_the_objective_is_one_that_all_settings_have_time_for(monkeypatch):
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    config = RunConfig(samples=64, heldout=0, space="depth")
    prepared = prepare(settle(config), Progress(None, 1))
    needed = prepared.effort_estimate.raced_seconds
    settings = replace(prepared.settings, effort=2 * needed)
    chosen = [
        choose_by_estimate(settings, replace(prepared.effort_estimate, parts=parts))
        for parts in (1, 3)
    ]
    assert "within --effort" in chosen[0].reason
    assert "more than --effort" in chosen[1].reason


def test_a_large_model_on_a_gpu_is_measured_and_not_replaced_by_a_proxy():
    on_gpu = {"space": "dop", "device": "cuda", "memory": "20GB"}
    assert plan("llava-1.5-7b", **on_gpu).chosen.startswith("objective joint")
    assert plan("llava-1.5-7b", **on_gpu, effort=LEAST_EFFORT).chosen.startswith(
        "objective additive"
    )


@pytest.mark.parametrize(("device", "short"), [("cuda", False), ("cpu", True)])
def test_a_descent_has_as_many_steps_as_on_the_embedded_model_where_an_hour_allows(device, short):
    chosen = plan("llava-1.5-7b", space="shares", device=device, memory="20GB").chosen
    steps, batch = map(int, re.findall(r"(\d+) (?:steps|samples)", chosen))
    assert (steps * batch < 500) == short


def test_a_plan_names_what_more_effort_would_search():
    on_gpu = {"space": "dop", "device": "cuda", "memory": "20GB", "effort": 60}
    longer = plan("llava-1.5-7b", **on_gpu).with_more
    assert {effort: words.split(":")[0] for effort, words in longer.items()} == {
        600.0: "objective joint"
    }
    assert plan("llava-1.5-7b", **on_gpu | {"effort": 4000}).with_more == {}
    assert list(plan("llava-1.5-7b", space="shares", device="cuda", memory="20GB").with_more) == [
        600.0
    ]
