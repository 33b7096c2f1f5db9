"""A ranker whose order depends on the count is refused where a space's policies keep several."""

import re
from fractions import Fraction
from io import StringIO

import numpy as np
import pytest
from rich.console import Console

from opsearch.errors import OpsearchError
from opsearch.evaluation.contenders import search_task
from opsearch.policy.ranker import RankerSpec
from opsearch.problem.spaces.base import SpaceSettings
from opsearch.progress import Progress
from opsearch.runs.config import RunConfig
from opsearch.runs.prepare import prepare, settle
from opsearch.runs.setup import check_nested, make_space, parse_budgets
from tests.support.messages import naming


def space_of(name, ranker, **options):
    """A space over 4 layers that is ranked so."""
    return make_space(name, SpaceSettings(num_layers=4, ranker=RankerSpec(ranker), **options))


@pytest.mark.parametrize("ranker", ["vispruner", "uniform"])
def test_stages_need_a_nested_ranker(ranker):
    space = space_of("stages", ranker)
    with pytest.raises(OpsearchError, match=naming(ranker, 2, "--stages 1")):
        check_nested(space, RankerSpec(ranker))
    with pytest.raises(OpsearchError, match=naming(ranker, 2, "--stages 1")):
        settle(RunConfig(space="stages", ranker=ranker))


@pytest.mark.parametrize("name", ["dop", "depth", "tokens", "layers"])
def test_only_stages_rank_inside_the_decoder(name):
    with pytest.raises(
        OpsearchError, match=naming("fastv", f"space {name!r}", "--space stages", "cls")
    ):
        space_of(name, "fastv")


@pytest.mark.parametrize("name", ["fastv", "pyramiddrop"])
def test_stages_that_rank_inside_the_decoder_rank_anew(name):
    space = space_of("stages", name)
    ranked = {tuple(layer for layer, _ in space.decode(p).rankers) for p in space.points}
    assert max(map(len, ranked)) == 2


@pytest.mark.parametrize("changes", [{"stages": 1}, {"space": "depth"}])
def test_one_count_needs_none(changes):
    space = settle(RunConfig(ranker="vispruner", **{"space": "stages", **changes})).settings.space
    check_nested(space, RankerSpec("vispruner"))
    counts = space.resolved(space.points, 100)
    partial = [set(row[(row > 0) & (row < 100)].tolist()) for row in counts]
    assert max(map(len, partial)) == 1


@pytest.mark.parametrize("ranker", ["vispruner", "uniform"])
def test_operations_keep_one_partial_count(ranker):
    """Their levels are none, the key quarter and all, where no order is needed."""
    space = space_of("operations", ranker)
    check_nested(space, RankerSpec(ranker))
    rows = np.random.default_rng(0).integers(0, [len(p.values) for p in space.parameters], (64, 11))
    counts = space.resolved(rows, 100)
    assert set(counts.ravel().tolist()) == {0, 25, 100}


@pytest.mark.parametrize("ranker", ["vispruner", "uniform"])
def test_finer_groups_need_a_nested_ranker(ranker):
    groups = (Fraction(1, 8), Fraction(1, 4), Fraction(1))
    space = space_of("operations", ranker, groups=groups)
    with pytest.raises(OpsearchError, match=naming(ranker, 2, "--groups 1/4,1")):
        check_nested(space, RankerSpec(ranker))
    check_nested(space_of("operations", ranker, groups=groups[1:]), RankerSpec(ranker))
    check_nested(space, RankerSpec("cls"))
    with pytest.raises(OpsearchError, match=naming(ranker, 2, "--groups 1/4,1")):
        settle(RunConfig(space="operations", groups="1/8,1/4,1", ranker=ranker))


def test_a_comparison_ranks_before_the_decoder_where_the_run_ranks_inside_it(tmp_path):
    settings = {"space": "stages", "stages": 1, "ranker": "fastv", "n_v": ("1/4",)}
    config = RunConfig(**settings, samples=1, heldout=0, out=tmp_path)
    said = StringIO()
    console = Progress(Console(file=said, width=200), 1)
    prepared = prepare(settle(config), console)
    found = {}
    for name in ("dop", "stages"):
        space = search_task(name, parse_budgets(["50%"]), prepared, console).space
        policies = [space.decode(point) for point in space.points]
        found[name] = {spec.name for policy in policies for _, spec in policy.rankers}
    assert found == {"dop": {"cls"}, "stages": {"fastv"}}
    (line,) = said.getvalue().splitlines()[-1:]
    assert re.search(naming("dop", "cls", "fastv"), line)
    assert "stages" not in said.getvalue()
