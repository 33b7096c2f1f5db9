"""Commands that load no model import neither torch nor transformers."""

import json
import re
import subprocess
import sys
from io import StringIO
from subprocess import PIPE
from typing import NamedTuple

import pytest
from rich.console import Console

from opsearch import RunConfig
from opsearch.commands.compare import compare
from opsearch.commands.run import run
from opsearch.solvers import SOLVERS
from tests.support.messages import naming

# Runs the command lines that it reads, one JSON list a line, in one process, since starting it
# takes longer than most commands. A finder, since SciPy takes a None in sys.modules for an imported
# torch.
BLOCKED = """
import contextlib, io, json, sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "transformers"):
            raise ImportError(f"{name} is blocked")
sys.meta_path.insert(0, Blocked())
from opsearch.commands.cli import call
for line in sys.stdin:
    with contextlib.redirect_stdout(io.StringIO()) as out:
        with contextlib.redirect_stderr(io.StringIO()) as err:
            code = call(json.loads(line))
    assert not {"torch", "transformers"} & sys.modules.keys()
    print(json.dumps([code, out.getvalue(), err.getvalue()]), flush=True)
"""
SHAPE = ("run", "--dry-run", "--shape", "llava-1.5-7b")
MEASURED = ("rank", "curves", "interactions", "ablation", "outcomes", "rivals")
OF_A_COMPARISON = ("pareto", "tables")
OF_OTHER_FORMS = (
    "local",
    "greedy",
    "bisection",
    "gradient",
)  # they do not solve the sum of the run


class Done(NamedTuple):
    """A command that ended."""

    returncode: int
    stdout: str
    stderr: str


@pytest.fixture(scope="module")
def light():
    """Runs a command with both packages blocked."""
    line = [sys.executable, "-c", BLOCKED]
    with subprocess.Popen(line, stdin=PIPE, stdout=PIPE, text=True) as process:

        def command(*arguments):
            print(json.dumps([str(each) for each in arguments]), file=process.stdin, flush=True)
            return Done(*json.loads(process.stdout.readline()))

        yield command
        process.stdin.close()
    assert process.returncode == 0


def measured(folder, **settings):
    config = {"samples": 2, "heldout": 2, "n_v": (".5",), "budget": ("100%",), "out": folder}
    run(RunConfig(**{**config, **settings}), Console(file=StringIO()))
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A run of each kind that is looked at: a table, a sum, one ranked inside the decoder."""
    root = tmp_path_factory.mktemp("runs")
    every = {"objective": "joint", "solver": "grid", "complete": True}
    small = {"space": "tokens", "n_v": (".5", ".25"), "budget": ("60%",)}
    inside = {"space": "stages", "stages": 1, "ranker": "fastv", "budget": ("60%",)}
    return {
        "joint": measured(root / "joint", **every),
        "seed 1": measured(root / "seed 1", **every, seed=1),
        "tokens": measured(root / "tokens", **small, objective="additive", solver="grid"),
        "inside": measured(root / "inside", **inside),
    }


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("list",), "vispruner"),
        ((*SHAPE,), "steps"),
        ((*SHAPE, "--space", "dop"), "within"),
        ((*SHAPE, "--space", "stages", "--stages", "1"), "policies"),
        ((*SHAPE, "--space", "layers", "--objective", "additive"), "policies"),
    ],
)
def test_without_a_run(light, arguments, words):
    done = light(*arguments)
    assert done.returncode == 0, done.stderr
    assert words in done.stdout


@pytest.mark.parametrize("name", ["joint", "tokens", "inside"])
@pytest.mark.parametrize(
    ("command", "words"),
    [("solve", "report"), ("front", "front"), ("report", "report.html"), ("show", "layer")],
)
def test_of_a_run(light, folders, name, command, words):
    path = folders[name]
    done = light(command, path / "policy_config.json" if command == "show" else path)
    assert done.returncode == 0, done.stderr
    assert words in done.stdout


def test_a_drawn_policy(light, folders, tmp_path):
    figure = tmp_path / "policy.svg"
    done = light("show", folders["joint"] / "policy_config.json", "--figure", figure)
    assert done.returncode == 0, done.stderr
    assert figure.exists()


def test_export(light, folders, tmp_path):
    done = light("export", folders["joint"], "--out", tmp_path / "measured.csv")
    assert done.returncode == 0, done.stderr
    assert "measurements written" in done.stdout


@pytest.mark.parametrize("solver", SOLVERS)
def test_solve_with_each_solver(light, folders, tmp_path, solver):
    done = light("solve", folders["tokens"], "--solver", solver, "--out", tmp_path / "solved")
    assert done.returncode == (solver in OF_OTHER_FORMS), done.stderr
    if solver in OF_OTHER_FORMS:
        assert re.search(naming(repr(solver), "additive", "--solver grid"), done.stderr)


@pytest.mark.parametrize("kind", MEASURED)
def test_analyze(light, folders, tmp_path, kind):
    # A run that was not solved again, which removes its comparison.
    done = light("analyze", kind, folders["seed 1"], "--out", tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout


def test_analyze_transfer_between_runs(light, folders, tmp_path):
    done = light("analyze", "transfer", folders["joint"], folders["seed 1"], "--out", tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "transfer.csv").exists()


@pytest.mark.parametrize("kind", OF_A_COMPARISON)
def test_analyses_of_a_comparison_that_was_not_made(light, folders, tmp_path, kind):
    done = light("analyze", kind, folders["joint"], "--out", tmp_path)
    assert done.returncode == 1
    assert "opsearch compare" in done.stderr.replace("\n", " ")


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    few = {"space": "tokens", "budget": ("60%",), "evaluations": 6}
    folder = measured(tmp_path_factory.mktemp("compared"), **few)
    compare(folder, ["70%"], samples=2, console=Console(file=StringIO()), spaces=["tokens"])
    return folder


@pytest.mark.parametrize("kind", OF_A_COMPARISON)
def test_analyses_of_a_comparison(light, compared, tmp_path, kind):
    done = light("analyze", kind, compared, "--out", tmp_path)
    assert done.returncode == 0, done.stderr
    assert any(tmp_path.iterdir())
