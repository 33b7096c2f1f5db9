"""A package of another author, built and installed, does all that built-in parts do."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import yaml

from opsearch.registry import KINDS
from opsearch.report.verdict import best_methods
from tests.plugins.installed import opsearch, python
from tests.support.messages import naming

PACKAGE = Path(__file__).parent / "package"
FEW = ["--samples=2", "--n-v=.5,.25"]
SPACE, RANKER = "acme-steps(late_from=3)", "acme-outliers(centred=1)"
OBJECTIVE, INSIDE = "acme-power(weight=2)", "acme-peak(heads=2)"


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A folder into which the wheel of the package is installed."""
    folder = tmp_path_factory.mktemp("acme")
    source = shutil.copytree(PACKAGE, folder / "source")
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    own = ["--no-deps", "--no-index"]
    for command in (
        ["wheel", "--no-build-isolation", *own, "--wheel-dir", folder, source],
        ["install", *own, "--find-links", folder, "--target", folder / "site", "acme-opsearch"],
    ):
        done = subprocess.run([*pip, *command], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    return folder / "site"


@pytest.fixture(scope="module")
def run(site, tmp_path_factory):
    """A run in which every part but the ranker inside the decoder is the package's."""
    folder = tmp_path_factory.mktemp("runs") / "before"
    parts = ["--space", SPACE, "--ranker", RANKER, "--objective", OBJECTIVE, "--budget"]
    parts += ["70%acme-rows", "--solver", "acme-draw", "--heldout=2"]
    (said,) = opsearch(site, ["run", *FEW, *parts, "--out", folder])
    assert said.code == 0, said.err
    return folder, said


@pytest.fixture(scope="module")
def run_inside(site, tmp_path_factory):
    """A run whose policies rank inside the decoder, and what eval and show say of its policy."""
    folder = tmp_path_factory.mktemp("runs") / "inside"
    parts = ["--space=stages", "--stages=1", "--ranker", INSIDE, "--objective=joint"]
    parts += ["--solver=acme-draw", "--budget=80%", "--budget=90%acme-rows", "--heldout=0"]
    said = opsearch(
        site,
        ["run", *FEW, *parts, "--out", folder],
        ["eval", folder, "--samples=2"],
        ["show", folder],
    )
    assert all(each.code == 0 for each in said), said
    return folder, said


def test_parts_are_listed_with_their_first_sentence(site):
    listed, help_text = opsearch(site, ["list"], ["run", "--help"])
    for name, first in {
        "acme-draw": "Best of the given start points and of feasible points",
        "acme-power": "Power mean of the samples' divergences",
        "acme-steps": "A share of the tokens in the first layers",
        "acme-rows": "Rows that pass through an MLP",
        "acme-outliers": "Tokens that differ most from the mean",
        "acme-peak": "Tokens that some heads of the last prompt token",
        "acme-length": "The lengths of question and image",
        "acme-half": "All tokens in the first half of the layers, the run's best after.",
        "acme-peak-half": "All tokens in the first half of the layers, the best by acme-peak",
    }.items():
        assert f" {name} {first}" in listed.out
    assert "As published: builders.stages(32" in listed.out
    shown = help_text.out.replace("│", " ")
    for name in ("acme-draw", "acme-power", "acme-steps", "acme-outliers", "acme-peak"):
        assert name in shown, "options name the parts"
    assert not any(f"{{{kind}}}" in shown for kind in KINDS)


def test_a_run_uses_them_and_its_files_name_them(run):
    folder, said = run
    assert "acme-power objective" in said.out
    assert "acme-draw" in said.out
    assert "MLP rows, %" in said.out
    settings = yaml.safe_load((folder / "run.yaml").read_text())
    assert settings["space"] == SPACE
    assert settings["objective"] == OBJECTIVE
    assert settings["ranker"] == RANKER
    assert settings["solver"] == "acme-draw"
    record = json.loads((folder / "solution.json").read_text())
    assert record["costs"]["acme-rows"] <= record["limits"]["acme-rows"]
    assert record["units"] == {"acme-rows": "rows"}
    assert set(record["point"]) == {"early", "late"}
    policy = json.loads((folder / "policy_config.json").read_text())
    assert policy["rankers"] == [{"layer": 0, "name": "acme-outliers", "params": {"centred": 1}}]
    table = pd.read_csv(folder / "comparison.csv", index_col=0)
    assert {"acme-half", f"tokens {RANKER}"} <= set(table.columns)
    assert table.loc["MLP rows, %", "original"] == 100
    assert (table.loc["MLP rows, %"].drop("original") <= 70).all()
    assert best_methods(table, "MLP rows, mean") == best_methods(table, "MLP rows, %") == []
    assert "less MLP rows" in (folder / "report.html").read_text().replace("\u00a0", " ")


def test_a_set_of_policies_is_chosen_by_their_selector(site, run, tmp_path):
    folder, _ = run
    command = ["adapt", folder, "--policies=2", "--selector=acme-length", "--out", tmp_path]
    (said,) = opsearch(site, command)
    assert said.code == 0, said.err
    assert json.loads((tmp_path / "policy_set.json").read_text())["selector"] == "acme-length"


def test_a_run_is_solved_again_and_has_a_front(site, run, tmp_path):
    folder, _ = run
    solved, front = opsearch(
        site,
        ["solve", folder, "--budget", "60%acme-rows", "--solver=grid", "--out", tmp_path / "again"],
        ["front", folder, "--cost", "acme-rows"],
    )
    assert (solved.code, front.code) == (0, 0), (solved.err, front.err)
    assert "acme-power objective" in solved.out
    assert "optimal" in solved.out
    assert "acme-power over acme-rows" in front.out
    table = pd.read_csv(folder / "front_acme-rows.csv")
    assert table["cost"].is_monotonic_increasing
    assert {"early", "late"} <= set(table.columns)


def test_a_ranker_inside_the_decoder_is_saved_evaluated_and_shown(run_inside):
    folder, (ran, evaluated, shown) = run_inside
    assert "acme-draw" in ran.out
    policy = json.loads((folder / "policy_config.json").read_text())
    (ranker,) = policy["rankers"]
    assert ranker["layer"] >= 1
    assert (ranker["name"], ranker["params"]) == ("acme-peak", {"heads": 2})
    assert "Rel. Avg." in evaluated.out
    assert INSIDE in shown.out


APPLIED = """
import sys, torch
import opsearch
from opsearch.costs.shape import Shape
from opsearch.costs.rankings import ranking_flops
from opsearch.models.encoding import encode

policy = opsearch.Policy.from_pretrained(sys.argv[1])
rerankings = policy.schedule(64).rerankings
assert [str(each.spec) for each in rerankings] == [sys.argv[2]], rerankings
model, processor = opsearch.load_model("demo")
assert ranking_flops(policy, 64, 20, Shape.from_config(model.config)) > 0
items = opsearch.load_items("demo", samples=2)

# The engine and the model at run time agree.
measured = opsearch.measure_kl(model, processor, items, [policy])
for column, item in enumerate(items):
    (sample,) = encode([item], processor, model.config)
    with torch.inference_mode():
        stock = model(**sample.inputs).logits[0, -1].log_softmax(-1)
        with policy.apply(model):
            pruned = model(**sample.inputs).logits[0, -1].log_softmax(-1)
    kl = (stock.exp() * (stock - pruned)).sum().item()
    assert abs(kl - measured[0, column]) < 1e-4, (kl, measured[0, column])

# Parts work as names and as objects; the solver gets points to begin from.
from acme_opsearch.solver import Draw

for solver in ("acme-draw", Draw()):
    found = opsearch.search(
        model, processor, items, budget="60%acme-rows", space="acme-steps", solver=solver,
        ranker="acme-outliers", n_v=(".5", ".25"), progress=False,
    )
    assert found.config.objective == "joint"
    assert found.solution.note.startswith("1 start points"), found.solution.note
print("agree")
"""


def test_a_saved_policy_is_applied_and_parts_are_found_from_python(site, run_inside):
    assert python(site, APPLIED, run_inside[0], INSIDE).endswith("agree\n")


def test_a_comparison_has_them_take_part(site, run_inside):
    folder, _ = run_inside
    options = ["--budget=70%acme-rows", "--samples=2", "--space", SPACE, "--ranker=acme-outliers"]
    (said,) = opsearch(site, ["compare", folder, *options])
    assert said.code == 0, said.err
    methods = set(pd.read_csv(folder / "pareto.csv")["method"])
    searched = {f"{SPACE} joint", f"{SPACE} additive"}
    assert {*searched, "acme-half", "acme-peak-half", "tokens acme-outliers"} <= methods
    assert "acme-half uses only" not in said.err, "it uses the budget"


WRONG = [
    (["--solver=acme"], ("'acme'", "acme-draw", "grid")),
    (["--objective=acme"], ("'acme'", "acme-power", "joint")),
    (["--space=acme"], ("'acme'", "acme-steps", "dop")),
    (["--ranker=acme"], ("'acme'", "acme-outliers", "acme-peak", "cls")),
    (["--budget=60%acme"], ("'acme'", "acme-rows", "flops")),
    (["--budget=5kcolumns"], ("columns", "rows")),
    (["--objective=acme-power(wait=2)"], ("acme-power(wait=2)", "weight")),
    (["--objective=acme-power(weight=.5)"], ("acme-power", "weight=0.5 is below 1")),
    (["--space=acme-steps(late_from=99)"], ("acme-steps", "late_from=99", "between 1 and")),
    (["--ranker=acme-outliers(centred=2)"], ("acme-outliers", "centred=2")),
    (["--ranker=acme-peak"], ("acme-peak", "inside the decoder", "--space stages")),
    (["--space=acme-steps", "--keep=0"], ("--keep", "'acme-steps'")),
    (["--space=layers", "--solver=acme-draw"], ("too many", "layers")),
]


def test_errors_name_them(site, tmp_path):
    commands = [["run", *options, "--out", tmp_path / "x"] for options, _ in WRONG]
    for (options, parts), said in zip(WRONG, opsearch(site, *commands), strict=True):
        assert re.search(naming(*parts), said.error), (options, said.error)
