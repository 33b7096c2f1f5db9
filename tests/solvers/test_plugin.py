"""A solver of an installed third-party package is found by its entry point and solves a run."""

import sys
from io import StringIO
from textwrap import dedent

import pytest
from rich.console import Console

from opsearch import RunConfig
from opsearch.commands.run import run
from opsearch.errors import OpsearchError
from opsearch.registry import registered
from opsearch.solvers import SOLVERS

SOURCE = '''
    """A solver that takes the cheapest feasible point."""

    import numpy as np

    from opsearch.problem.solution import Status, require_form, solution_at


    class Cheapest:
        """The feasible point of the lowest cost."""

        name = "cheapest"
        exact = False
        forms = frozenset({"table", "separable"})

        def solve(self, problem, *, seed=0, limit=None):
            require_form(problem.objective, self)
            feasible = np.flatnonzero(problem.feasible)
            index = int(feasible[problem.cost[feasible].argmin()])
            return solution_at(problem, index, Status.FEASIBLE, self.name, seed=seed)
'''


@pytest.fixture
def site(tmp_path, monkeypatch):
    """A function that installs the package under a name for its entry point."""

    def install(name):
        (tmp_path / "cheapest_solver.py").write_text(dedent(SOURCE))
        info = tmp_path / "cheapest_solver-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: cheapest-solver\nVersion: 1.0")
        points = f"[opsearch.solvers]\n{name} = cheapest_solver:Cheapest\n"
        (info / "entry_points.txt").write_text(points)
        monkeypatch.syspath_prepend(tmp_path)

    yield install
    sys.modules.pop("cheapest_solver", None)


def test_it_is_listed_and_solves_a_run(site, tmp_path):
    assert "cheapest" not in registered("solvers", SOLVERS)
    site("cheapest")
    assert set(registered("solvers", SOLVERS)) == {*SOLVERS, "cheapest"}
    settings = {"space": "tokens", "n_v": (".5", ".25"), "samples": 2, "heldout": 0}
    config = RunConfig(
        **settings, budget=("80%",), objective="additive", solver="cheapest", out=tmp_path / "run"
    )
    result = run(config, Console(file=StringIO()))
    assert result.solution.solver == "cheapest"
    assert result.solution.point == {"n_v": "1/4"}


def test_it_cannot_take_the_name_of_another_solver(site):
    site("grid")
    with pytest.raises(OpsearchError, match=r"'grid'.*entry point"):
        registered("solvers", SOLVERS)
