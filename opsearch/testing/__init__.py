"""Conformance tests of solvers, also for plug-ins: inherit one of the classes in a pytest file.

    class TestMySolver(SolverConformance):
        @pytest.fixture
        def solver(self):
            return MySolver()

`LargeSpaceConformance` is for spaces too large to list, `BoundedConformance` for objectives of form
`bounded`. The problems are from `opsearch.testing.example_problems`.
"""

from opsearch.testing.bounded import BoundedConformance
from opsearch.testing.layers import LargeSpaceConformance
from opsearch.testing.listed import SolverConformance

__all__ = ["BoundedConformance", "LargeSpaceConformance", "SolverConformance"]
