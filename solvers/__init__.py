"""Solvers: each turns a Problem into a Solution, see `opsearch.solution`.

Importing them loads no solver library; that happens inside solve().
"""

from collections.abc import Callable

from opsearch.solution import Solver
from opsearch.solvers.bisection import Bisection
from opsearch.solvers.cpsat import CpSat
from opsearch.solvers.greedy import Greedy
from opsearch.solvers.grid import Grid
from opsearch.solvers.highs import Highs
from opsearch.solvers.local import Local
from opsearch.solvers.threshold import Threshold
from opsearch.solvers.tpe import Tpe

SOLVERS: dict[str, Callable[[], Solver]] = {
    "grid": Grid,
    "ortools": CpSat,
    "scipy": Highs,
    "optuna": Tpe,
    "local": Local,
    "greedy": Greedy,
    "bisection": Bisection,
    "threshold": Threshold,
}
