"""Every solver of the table passes the suite that plug-ins inherit."""

import subprocess
import sys

import pytest

from opsearch.problem.solution import Solver
from opsearch.solvers import SOLVERS
from opsearch.testing import BoundedConformance, LargeSpaceConformance, SolverConformance


class TestEverySolver(SolverConformance):
    # `greedy` refuses the suite's spaces and has a file of its own, `bisection` its objectives, and
    # `gradient` needs a model: tests/runs/test_portfolio.py.
    @pytest.fixture(params=sorted(SOLVERS.keys() - {"greedy", "bisection", "gradient"}))
    def solver(self, request: pytest.FixtureRequest) -> Solver:
        return SOLVERS[request.param]()


class TestEverySolverOfLargeSpaces(LargeSpaceConformance):
    # `grid` needs a list, `bisection` another objective, and `gradient` a model.
    @pytest.fixture(params=sorted(SOLVERS.keys() - {"grid", "bisection", "gradient"}))
    def solver(self, request: pytest.FixtureRequest) -> Solver:
        return SOLVERS[request.param]()


class TestEverySolverOfBounds(BoundedConformance):
    @pytest.fixture(params=sorted(n for n, make in SOLVERS.items() if "bounded" in make().forms))
    def solver(self, request: pytest.FixtureRequest) -> Solver:
        return SOLVERS[request.param]()


def test_names_in_the_table_are_the_solvers_own() -> None:
    assert {name: make().name for name, make in SOLVERS.items()} == {name: name for name in SOLVERS}


def test_importing_solvers_loads_no_solver_library() -> None:
    code = "import sys, opsearch.solvers; print({'ortools', 'optuna', 'scipy'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
