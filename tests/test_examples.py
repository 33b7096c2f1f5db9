"""Every example runs to its end, on tiny or embedded models; real checkpoints differ in size."""

import re
import runpy
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from opsearch import Policy
from tests.support.families import FAMILIES
from tests.support.families.folder import save

EXAMPLES = Path(__file__).parent.parent / "examples"


@pytest.fixture
def example(monkeypatch, capsys, tmp_path):
    """A function that runs an example with these arguments and returns what it prints."""
    monkeypatch.syspath_prepend(EXAMPLES)
    monkeypatch.chdir(tmp_path)

    def start(name, *arguments):
        monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
        runpy.run_path(str(EXAMPLES / name), run_name="__main__")
        return capsys.readouterr().out

    yield start
    sys.modules.pop("shrunken", None)


def test_pipeline_answers_with_and_without_the_policy(example):
    original, pruned = example("pipeline.py").splitlines()
    assert original.removeprefix("original: ") == pruned.removeprefix("vtw(k=11): ") != ""


@pytest.mark.slow
def test_llava_searches_a_policy_and_answers(example):
    out = example("llava.py", "--smoke", "--out", "run")
    assert re.search(r"\boptimal\b", out)
    assert "KL held-out" in out
    assert Policy.from_pretrained("run").num_layers == 6


@pytest.mark.slow
@pytest.mark.parametrize(
    "family",
    [
        "llava",
        pytest.param("qwen2_5_vl", marks=pytest.mark.requires_torchvision),
    ],
)
def test_own_data_are_searched_once_and_solved_often(example, family, tmp_path):
    from shrunken import questions

    save(FAMILIES[family], tmp_path / "model")
    data = questions(tmp_path / "data", 6)
    model = ["--model", tmp_path / "model", "--data", data, "--samples", 4, "--n-v", "1/2,1"]
    out = example("own_data.py", *model, "--budgets", "80%", "70%", "60%", "--out", "run")
    assert [line.split()[0] for line in out.splitlines()[:2]] == ["70%", "60%"]
    assert re.search(r"^[^%\n]*\b4\b", out, re.MULTILINE)
    assert {Policy.from_pretrained(f"run/{n}").model_type for n in (70, 60)} == {family}


@pytest.mark.slow
def test_own_solver_is_never_better_than_the_optimum(example):
    ortools, luck = example("own_solver.py", "--samples", 3).splitlines()
    value = {line.split(":")[0]: float(line.split()[1]) for line in (ortools, luck)}
    assert value["ortools"] <= value["luck"]
    assert "optimal" in ortools
    assert "feasible" in luck


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.skipif(find_spec("ray") is None, reason="ray is not installed")
def test_two_machines_are_tried_with_two_workers(example):
    options = ["--workers", 2, "--samples", 4, "--n-v", "1/4", "--out", "run"]
    out = example("two_machines.py", *options)
    assert Policy.from_pretrained("run").name in out


@pytest.mark.slow
def test_the_reproduction_kit_runs_every_row(example):
    out = example("reproduce.py", "--smoke", "--out", "run")
    listed = example("reproduce.py", "--list").splitlines()
    assert out.count("(expected: ") == len(listed)
    assert out.count("Rel. Avg. ") == len(listed)
    for line in listed:
        where, expected = line.split(": ", 1)
        assert f"(expected: {expected.split(', ', 1)[1]})" in out or "VTW" in expected
        name, budget = where.split()
        assert f"{name}, {budget}: " in out
    assert Policy.from_pretrained("run/llava-1.5-7b/128/vispruner").num_layers == 32
