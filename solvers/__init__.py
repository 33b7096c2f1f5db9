"""Solvers, which turn a Problem into a Solution (`opsearch.problem.solution`).

Importing them loads no solver library; that happens inside solve().
"""

from typing import Any

from opsearch.solvers.bisection import Bisection
from opsearch.solvers.gradient import GradientDescent
from opsearch.solvers.greedy import Greedy
from opsearch.solvers.grid import Grid
from opsearch.solvers.local import Local
from opsearch.solvers.optuna import Tpe
from opsearch.solvers.ortools import CpSat
from opsearch.solvers.scipy import Highs
from opsearch.solvers.threshold import Threshold

SOLVERS: dict[str, type[Any]] = {
    "gradient": GradientDescent,
    "grid": Grid,
    "ortools": CpSat,
    "scipy": Highs,
    "optuna": Tpe,
    "local": Local,
    "greedy": Greedy,
    "bisection": Bisection,
    "threshold": Threshold,
}
