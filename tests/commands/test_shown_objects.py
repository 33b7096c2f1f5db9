"""Objects of the Python API show themselves on one screen, whatever they hold."""

from dataclasses import fields, is_dataclass
from fractions import Fraction

import numpy as np
import pandas as pd
import pytest
import torch

import opsearch
from opsearch import Item, Policy, RankerSpec, builders
from opsearch.commands.analyze import analyze
from opsearch.formatting import brief
from opsearch.policy.baseline import Baseline
from opsearch.problem import Pairwise, Parameter, Prompt, Separable, SpaceSettings, Table
from opsearch.problem.spaces import SPACES

LINES, COLUMNS = 10, 100
SHARES = [Fraction(n, 10**12 + 39) for n in range(1, 121)]


def on_screen(value):
    """Return what a value shows of itself, which fits."""
    shown = repr(value)
    assert len(shown.splitlines()) <= LINES, shown
    assert max(map(len, shown.splitlines())) <= COLUMNS, shown
    return shown


def deep(layers=40, **given):
    """A policy in which all counts differ."""
    rows = tuple(tuple(SHARES[3 * layer : 3 * layer + 3]) for layer in range(layers))
    return Policy(rows, name="n" * 500, provenance={"budget": ["30%"] * 500}, **given)


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    model, processor = opsearch.load_model("demo")
    items, heldout = (opsearch.load_items("demo", samples=3, split=s) for s in SPLITS)
    out = tmp_path_factory.mktemp("runs") / ("long" * 20)
    return opsearch.search(
        model, processor, items, heldout=heldout, space="dop", out=out, n_v=(".5", ".25"),
        objective="joint", progress=False,
    )  # fmt: skip


SPLITS = ("calibration", "held-out")


def test_a_policy_of_equal_layers_shows_all_its_counts():
    shown = on_screen(builders.dop(40, 8, 20, "9/16", RankerSpec("cls"), kv="stays"))
    assert [line.split() for line in shown.splitlines()[-3:]] == [
        ["q", "9/16", "x8,", "0", "x32"],
        ["kv", "9/16", "x40"],
        ["mlp", "9/16", "x20,", "0", "x20"],
    ]
    assert all(part in shown for part in ("cls", "dop(d_attn=8", "40"))


@pytest.mark.parametrize(
    "policy",
    [
        deep(),
        deep(rankers=tuple((layer, RankerSpec("r" * 90)) for layer in range(40))),
        Policy(tuple((Fraction(10**30 + n),) * 3 for n in range(40)), unit="tokens"),
    ],
    ids=["shares", "rankers", "tokens"],
)
def test_long_policies_are_cut(policy):
    assert "..." in on_screen(policy)


def test_results_of_a_search(result):
    shown = on_screen(result)
    assert result.policy.name[:20] in shown
    assert f"{result.value:.4g}" in shown
    assert "optimal" in shown
    for each in (result.problem, result.solution, result.config):
        on_screen(each)
    for each in (*result.problem.constraints, result.problem.objective, result.problem.space):
        on_screen(each)
    assert "optimal" in on_screen(result.solution)
    assert str(result.config) == repr(result.config)
    assert "space='dop'" in on_screen(result.config)


def test_fronts_scores_and_analyses(result):
    front = opsearch.front(result.folder)
    assert f"[{len(front.table)}, " in on_screen(front)
    on_screen(analyze("curves", [result.folder])[0])
    model, processor = opsearch.load_model("demo")
    items = opsearch.load_items("demo", samples=2)
    scores = opsearch.evaluate(model, processor, items, result.policy, progress=False)
    on_screen(scores)
    assert "float64[2]" in on_screen(scores.original)


def large():
    """Parts that authors of plug-ins print."""
    space = SPACES["dop"].from_settings(SpaceSettings(num_layers=40))
    terms = tuple(np.zeros(50) for _ in range(300))
    mask = torch.ones(2, 500, dtype=torch.bool)
    return [
        space,
        SPACES["operations"].from_settings(SpaceSettings(num_layers=80, n_v=tuple(SHARES))),
        SPACES["stages"].from_settings(SpaceSettings(num_layers=4, n_v=tuple(SHARES))),
        SpaceSettings(num_layers=40, n_v=tuple(SHARES), keep=frozenset((n, 1) for n in range(40))),
        Parameter("share", tuple(SHARES)),
        Table("joint", "nats", np.zeros(10**5), lower=np.zeros(10**5)),
        Separable("additive", "nats", space, terms),
        Pairwise("pairwise", "nats", space, terms, {((n, 0), (n + 1, 0)): 0.1 for n in range(99)}),
        Prompt(mask, mask, (500, 500), {"embeddings": torch.zeros(500, 64)}),
        Item("1", "why? " * 900, ("because",) * 900, ("a.jpg",) * 50),
        Baseline("Long. " * 50, (builders.tokens,) * 30),
    ]


@pytest.mark.parametrize("part", large(), ids=lambda part: type(part).__name__)
def test_parts_with_arrays_and_long_tuples(part):
    assert is_dataclass(part)
    shown = on_screen(part)
    assert shown.startswith(type(part).__name__)
    assert fields(part)[0].name in shown


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (np.zeros((3, 4), np.int64), "int64[3, 4]"),
        (torch.zeros(2, 5), "float32[2, 5]"),
        (pd.DataFrame({"a": [1, 2]}), "DataFrame[2, 1]"),
        (np.float64(0.5), repr(np.float64(0.5))),
        (Fraction(1, 2), "1/2"),
        ((1, 2), "(1, 2)"),
        (tuple(range(1000)), "(0, 1, 2, 3, ... 996 more)"),
        ({"a": 1}, "{'a': 1}"),
        ((), "()"),
        ("x" * 100, f"'{'x' * 56}..."),
    ],
)  # fmt: skip
def test_values(value, shown):
    assert brief(value) == shown
