"""The gradient proxy: its terms, its refusals, and a run from the command line."""

from dataclasses import dataclass, field

import numpy as np
import pytest

from opsearch.analysis import proxies
from opsearch.analysis.rank import table
from opsearch.commands.run import run
from opsearch.commands.solve import solve
from opsearch.errors import OpsearchError, RunFolderError
from opsearch.measure.gates.gradients import closed
from opsearch.objectives.additive import Additive
from opsearch.objectives.taylor import Taylor
from opsearch.problem.spaces.depth import dop_space
from opsearch.problem.spaces.operations import operations_space
from opsearch.problem.spaces.stages import stages_space
from opsearch.runs.config import RunConfig
from opsearch.runs.stored import stored_run
from tests.support.messages import naming


@dataclass
class Gradients:
    """A measure of gradients only: the number of closed gates of three samples."""

    asked: list = field(default_factory=list)

    def gate_gradients(self, policies):
        self.asked += policies
        return np.outer([closed_gates(policy) for policy in policies], [1, 2, 3])


def closed_gates(policy):
    first, end = closed(policy, 10)
    return float((end - first).sum())


@pytest.mark.parametrize("space", [dop_space(4), operations_space(4)], ids=lambda s: s.name)
def test_terms_are_means_of_each_parameter_alone(space):
    measure = Gradients()
    objective = Taylor().make(space, measure, np.zeros(0, bool))
    assert len(measure.asked) == sum(len(parameter.values) for parameter in space.parameters)
    assert measure.asked == Additive().policies(space)
    counts = iter(measure.asked)
    for term, parameter in zip(objective.terms, space.parameters, strict=True):
        wanted = [2 * closed_gates(next(counts)) for _ in parameter.values]
        assert term.tolist() == pytest.approx(wanted)
        assert term[-1] == 0
        assert term[0] > 0 or len(term) == 1


def test_spaces_without_terms_are_refused():
    with pytest.raises(OpsearchError, match=naming("stages", "individual")):
        Taylor().require(stages_space(4))


def test_a_run_takes_gradients_and_solves_again_from_the_store(tmp_path):
    config = RunConfig(samples=4, heldout=0, budget=("30%",), objective="taylor", solver="ortools")
    config = config.model_copy(update={"out": tmp_path / "run", "space": "operations"})
    found = run(config)
    assert found.solution.objective == "taylor"
    assert found.solution.status.name == "OPTIMAL"
    cheaper = solve(tmp_path / "run", ["20%"])
    assert cheaper.value > found.value > 0


def test_the_analysis_and_other_solves_need_what_a_run_took(tmp_path):
    config = {"samples": 4, "heldout": 0, "budget": ("15%",), "n_v": ("1/4", "1")}
    run(RunConfig(**config, objective="joint", complete=True, out=tmp_path / "run"))
    before = stored_run(tmp_path / "run")
    assert "taylor" not in before.alone
    assert proxies.table(before).empty
    with pytest.raises(RunFolderError, match=naming("gradients", "--objective taylor")):
        solve(tmp_path / "run", objective="taylor", solver="ortools")
    run(RunConfig(**config, objective="taylor", out=tmp_path / "run"))
    measured = stored_run(tmp_path / "run")
    for gradients, kl in zip(measured.alone["taylor"], measured.alone["kl"], strict=True):
        assert gradients.shape == kl.shape
        assert (gradients >= 0).all()
        assert (gradients[-1] == 0).all()
    graded = proxies.table(measured)
    assert graded["proxy"].tolist() == ["additive", "taylor"]
    assert graded["forwards"].tolist() == [12 + 12 + 1, 4]
    assert (graded["regret"] >= 0).all()
    rows = table(measured).set_index("budget").loc[[15]]
    assert graded["spearman"].iloc[0] == pytest.approx(rows["spearman"].item())
    assert graded["regret"].iloc[0] == pytest.approx(rows["regret"].item())
    assert "Proxy taylor, 4 forwards" in proxies.describe(graded)
