"""The published calls and commands of the baselines run as printed."""

import shlex

import pytest
import typer

from opsearch import Policy, RankerSpec, RunConfig
from opsearch.commands.cli import app
from opsearch.costs.shape import CHECKPOINTS
from opsearch.evaluation.baselines import BASELINES, DOP_AS_PUBLISHED
from opsearch.policy import builders
from opsearch.runs.choose import choose
from opsearch.runs.setup import resolve

# Baselines of no paper; HiPrune reads received attention in another way.
OWN = {"tokens uniform", "tokens random", "tokens cls", "tokens received", "FastV like"}
# Their papers choose a setting for each sample, task or budget and print none that is known here.
WITHOUT = {"VisPCO like", "P-Sigmoid like", "G-Search like", "HiDrop like", "V-Skip"}
WITHOUT |= {"operator skipping"}
PUBLISHED = {label: method.published for label, method in BASELINES.items() if method.published}
CALLS = {label: call for label, call in PUBLISHED.items() if not call.startswith("opsearch ")}
COMMANDS = {label: PUBLISHED[label] for label in PUBLISHED.keys() - CALLS.keys()}
COMMANDS["dop additive"] = DOP_AS_PUBLISHED


@pytest.mark.parametrize("label", CALLS)
def test_a_call_makes_a_policy(label):
    names = {"RankerSpec": RankerSpec, "builders": builders}
    policy = eval(CALLS[label], names)
    assert isinstance(policy, Policy)
    assert policy.num_layers == 32
    own = BASELINES[label].ranker
    assert {spec.name for _, spec in policy.rankers} == ({own} if own else set())


@pytest.mark.parametrize("label", sorted(COMMANDS))
def test_a_command_is_one_that_runs(label):
    _, name, *rest = shlex.split(COMMANDS[label])
    given = typer.main.get_command(app).commands[name].make_context(name, rest).params
    assert given["model"] in {each.hub_id for each in CHECKPOINTS.values()}
    assert given["data"]
    config = RunConfig(
        **{key: given[key] for key in ("space", "solver", "objective", "budget") if given[key]}
    )
    assert choose(resolve(config, 32, RankerSpec("cls")), seconds=0.0).solver is not None


def test_every_published_method_has_its_call():
    assert BASELINES.keys() - OWN - WITHOUT == PUBLISHED.keys()
    assert all("arXiv" in BASELINES[label].description for label in WITHOUT)
