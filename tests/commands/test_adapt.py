"""`opsearch adapt` on the embedded model: a set within its budget, saved and applied."""

import json
import re
from functools import partial
from io import StringIO

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from opsearch import PolicySet, RunConfig, builders, cost_share
from opsearch.analysis.adaptive import titles
from opsearch.commands.adapt import adapt
from opsearch.commands.cli import call
from opsearch.commands.run import run
from opsearch.data.embedded import embedded
from opsearch.errors import OpsearchError, RunFolderError
from opsearch.evaluation.answers import answer_as, relative_average
from opsearch.measure.storage.store import Store
from opsearch.models.encoding import encode
from opsearch.models.loading import load_config, load_processor, load_weights
from opsearch.problem.budget import Budget
from opsearch.progress import Progress
from opsearch.runs.adaptive import other_budgets
from opsearch.runs.prepare import prepare, settle
from tests.support.measured import stored_count
from tests.support.messages import naming

SETTINGS = {
    "samples": 400,
    "heldout": 30,
    "space": "tokens",
    "n_v": ("1/16", "1/8", "1/4", "3/8", "1/2"),
    "objective": "joint",
    "budget": ("30%",),
}


def silent():
    return Console(file=StringIO(), width=200)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("adapted") / "run"
    run(RunConfig(**SETTINGS, out=path), silent())
    return path


@pytest.fixture(scope="module")
def adapted(folder):
    return adapt(folder, policies=2, console=silent())


def test_the_set_keeps_to_the_budget_and_is_no_worse_than_one_policy(adapted):
    lines = adapted.comparison
    assert list(lines.index) == [
        "one policy",
        "set of 2",
        "one per kind",
        "best of the set",
        "best per sample",
    ]
    cost = lines["cost calibration, %"]
    assert (cost <= 30 + 1e-9).all()
    assert adapted.helps
    assert lines.loc["set of 2", "KL calibration"] < lines.loc["one policy", "KL calibration"]
    assert lines["KL calibration"].idxmin() == "best per sample"
    assert len(adapted.policies.policies) == 2


def test_each_kind_has_the_shares_of_its_questions(adapted):
    kinds = adapted.kinds
    assert kinds["samples"].sum() == 30
    shares = kinds[[name for name in kinds if name.startswith("policy of")]]
    np.testing.assert_allclose(shares.sum(axis=1), 100)
    weights = kinds["samples"] / 30
    line = adapted.comparison.loc["set of 2"]
    assert (kinds["cost, %"] * weights).sum() == pytest.approx(line["cost held-out, %"])
    assert (kinds["KL"] * weights).sum() == pytest.approx(line["KL held-out"])


def test_the_saved_set_gives_the_answers_that_its_line_counts(adapted):
    """The selector reads the same in a batch of prompts as in the search."""
    policies = PolicySet.from_pretrained(adapted.folder)
    assert policies.digest() == adapted.policies.digest()
    assert policies.provenance["budget"] == "30%"
    assert policies.kinds == adapted.policies.kinds
    assert set(policies.kinds) == {sample.family for sample in embedded("calibration", 100, 0)}
    model, processor = load_weights("demo"), load_processor("demo")
    items = embedded("held-out", 30, 0)
    samples = encode(items, processor, load_config("demo"))
    keys = [sample.digest for sample in samples]
    found = answer_as(keys, partial(policies.apply, model), model, processor, samples)
    stock = answer_as(keys, partial(policies.policies[0].apply, model), model, processor, samples)
    assert found.texts != stock.texts, "some samples get another policy"
    original = {kind: score / 100 for kind, score in adapted.kinds["original, %"].items()}
    relative = 100 * relative_average(found.by_family(), original)
    assert relative == pytest.approx(adapted.comparison.loc["set of 2", "Rel. Avg., %"])


def test_again_it_measures_nothing_and_finds_the_same(folder, adapted, tmp_path):
    with Store(folder / "measurements.db") as store:
        before = stored_count(store)
    again = adapt(folder, policies=2, out=tmp_path, console=silent())
    with Store(folder / "measurements.db") as store:
        assert stored_count(store) == before
    assert again.policies.digest() == adapted.policies.digest()
    pd.testing.assert_frame_equal(again.comparison, adapted.comparison)
    assert {file.name for file in tmp_path.iterdir()} == {
        "policy_set.json",
        "selector.safetensors",
        "measured.safetensors",
        "adaptive.csv",
        "kinds.csv",
    }


def test_the_command_prints_the_tables_and_where_the_set_is(folder, tmp_path, capsys):
    given = ["adapt", str(folder), "--policies=2", f"--out={tmp_path}"]
    assert call(given) == 0
    printed, said = capsys.readouterr()
    for words in ("one policy", "set of 2", "one per kind", "best per sample", "digit_max"):
        assert words in printed
    assert f"{tmp_path}/policy_set.json" in printed
    assert re.search(r"a policy of 45%:", said)
    assert call([*given, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["helps"] is True
    assert found["comparison"].keys() >= {"one policy", "set of 2"}


def test_run_adapts_at_once(tmp_path, capsys):
    given = ["run", "--samples=40", "--heldout=6", "--space=tokens", "--n-v=1/8,1/4,1/2"]
    given += ["--objective=joint", "--budget=30%", f"--out={tmp_path}", "--adaptive=2", "--json"]
    assert call(given) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["policy"]
    assert found["adaptive"]["comparison"].keys() >= {"one policy", "best per sample"}
    assert (tmp_path / "adaptive" / "policy_set.json").exists()


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        (["--adaptive=9"], ["--adaptive 9", "2 to 8"]),
        (["--adaptive=4", "--budget=200MB"], ["'200MB'", "--budget 30%"]),
        (["--adaptive=4", "--budget=30%", "--budget=50%kv"], ["'50%kv'", "--budget 30%"]),
    ],
)
def test_what_cannot_be_adapted_is_refused_before_the_search(tmp_path, capsys, options, parts):
    assert call(["run", *options, f"--out={tmp_path}"]) != 0
    assert re.search(naming(*parts), capsys.readouterr().err)
    assert not any(tmp_path.iterdir())


def test_eval_answers_with_the_set(folder, adapted, capsys):
    given = [str(adapted.folder), "--split=held-out", "--samples=30", "--json"]
    assert call(["eval", *given]) == 0
    found = json.loads(capsys.readouterr().out)
    line = adapted.comparison.loc["set of 2"]
    assert found["samples"] == 30
    assert 100 * found["relative"] == pytest.approx(line["Rel. Avg., %"])
    assert 100 * found["flops"] == pytest.approx(line["cost held-out, %"])
    assert 100 * found["worse_at_most"] == pytest.approx(line["lost at most, %"])


def test_eval_leaves_out_the_samples_of_the_run_of_the_set(adapted, capsys):
    given = [str(adapted.folder), "--split=calibration", "--samples=401", "--json"]
    assert call(["eval", *given]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["samples"], found["dropped"]) == (1, 400)


def test_generate_names_the_policy_that_the_question_gets(adapted, capsys):
    file = adapted.folder / "policy_set.json"
    assert call(["generate", str(file), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    number, of = map(int, found["of_set"].split(" of "))
    assert of == 2
    assert found["name"] == adapted.policies.policies[number - 1].name
    assert call(["generate", str(adapted.folder)]) == 0
    assert f"policy {number} of 2" in capsys.readouterr().out


@pytest.mark.parametrize("command", ["show", "bench"])
def test_commands_for_one_policy_say_so(adapted, command, capsys):
    assert call([command, str(adapted.folder)]) != 0
    assert re.search(naming("set of policies", "opsearch eval"), capsys.readouterr().err)


def test_samples_without_answers_have_no_scores(tmp_path):
    file, config = tmp_path / "data.jsonl", {**SETTINGS, "samples": 20, "heldout": 4}
    lines = []
    for number, item in enumerate(embedded("calibration", 24, 0)):
        item.pictures()[0].image.save(tmp_path / f"{number}.png")
        line = {"image": f"{number}.png", "question": item.question, "answers": []}
        lines.append({**line, "id": str(number)})
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    run(RunConfig(**config, data=file, out=tmp_path / "run"), silent())
    found = adapt(tmp_path / "run", policies=2, console=silent())
    assert "Rel. Avg., %" not in found.comparison
    assert "score, %" not in found.kinds
    assert "one per kind" not in found.comparison.index, "all are of one kind"


def test_without_held_out_samples_the_set_is_compared_on_those_of_the_search(tmp_path):
    given = {"samples": 12, "heldout": 0, "n_v": ("1/8", "1/4"), "out": tmp_path / "run"}
    run(RunConfig(**{**SETTINGS, **given}), silent())
    found = adapt(tmp_path / "run", policies=2, console=silent())
    assert list(found.comparison) == ["policies", "cost calibration, %", "KL calibration"]
    assert found.kinds.empty


def test_policies_of_equal_cost_are_told_apart():
    assert titles(np.array([14.81, 30.0, 14.79])) == [
        "policy of 14.8%, 1",
        "policy of 30%",
        "policy of 14.8%, 2",
    ]


@pytest.mark.parametrize("policies", [1, 9])
def test_numbers_of_policies_out_of_range_are_refused(folder, policies):
    with pytest.raises(OpsearchError, match=naming(policies, "2 to 8")):
        adapt(folder, policies=policies, console=silent())


@pytest.mark.parametrize(
    "budget", [("40%", "60%kv"), ("300M",)], ids=["several", "an amount per sample"]
)
def test_budgets_that_cannot_be_mixed_are_refused(folder, tmp_path, budget):
    RunConfig.load(folder / "run.yaml").changed(budget=budget, out=tmp_path).save(
        tmp_path / "run.yaml"
    )
    with pytest.raises(OpsearchError, match=naming(budget[0], "--budget 30%")):
        adapt(tmp_path, console=silent())


def test_budgets_that_the_space_does_not_reach_are_left_out(folder, tmp_path):
    config = RunConfig.load(folder / "run.yaml")
    given = {"samples": 40, "n_v": ("1/4", "1/2"), "budget": ("33%",), "out": tmp_path / "run"}
    few = config.changed(**given)
    run(few, silent())
    console = silent()
    adapt(tmp_path / "run", policies=2, console=console)
    said = console.file.getvalue()
    assert re.search(naming("19.8%", "left out"), said)
    assert re.search("a policy of 49.5%:", said)


def test_a_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(RunFolderError):
        adapt(tmp_path, console=silent())


@pytest.mark.parametrize("budget", ["9%", "30%", "80%", "50%kv"])
def test_other_budgets_are_possible_and_around_that_of_the_run(budget):
    config = RunConfig(samples=4, heldout=0, space="shares", budget=(budget,))
    prepared = prepare(settle(config), Progress(silent(), 2))
    found, own = other_budgets(prepared), Budget.parse(budget)
    assert {each.cost for each in found} == {own.cost}
    amounts = [each.amount for each in found]
    assert amounts == sorted(set(amounts))
    assert min(amounts) < own.amount
    assert own.amount not in amounts
    text = builders.vtw(prepared.shape.layers, 0)
    items = [sample.item for sample in prepared.calibration]
    loaded = load_weights("demo"), prepared.processor
    least = cost_share(*loaded, items, text, cost=own.cost)
    assert all(least < amount < 0.91 for amount in amounts)
