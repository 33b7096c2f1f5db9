"""eval answers items with the original and under a policy, and leaves out what was searched on."""

import json
import re
from dataclasses import replace
from io import StringIO

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

import opsearch
from opsearch import Policy, RankerSpec, RunConfig
from opsearch.commands.run import run
from opsearch.commands.solve import solve
from opsearch.data.embedded import embedded
from opsearch.data.groups import item_links, unseen_rows
from opsearch.errors import DataError, OpsearchError, PolicyError, RunFolderError
from opsearch.evaluation.answers import Answers, answer, relative_average
from opsearch.evaluation.evaluate import evaluate
from opsearch.models.loading import load_processor
from opsearch.models.spec import ModelSpec
from opsearch.policy import builders
from opsearch.runs.run_folder import RunFolder
from opsearch.runs.samples import run_items
from tests.measure.demo import LAYERS, model, samples, two_pictures
from tests.support.messages import naming, refuses

HALF = builders.tokens(LAYERS, "1/2", RankerSpec("cls"))
SILENT = Console(file=StringIO())


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    folder = tmp_path_factory.mktemp("policy")
    builders.vtw(LAYERS, 2).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def searched(tmp_path_factory):
    """A run whose calibration samples are the first five of the embedded ones."""
    folder = tmp_path_factory.mktemp("run")
    config = RunConfig(samples=5, heldout=0, n_v=(".5",), objective="additive", out=folder)
    run(config, SILENT)
    return folder


def test_answers_are_those_of_generating_one_by_one():
    wanted = [*samples(15), *two_pictures(2)]
    for policy in (None, HALF):
        together = answer(model(), load_processor("demo"), wanted, policy)
        alone = [answer(model(), load_processor("demo"), [s], policy) for s in wanted]
        assert together.texts == tuple(a.texts[0] for a in alone)
        assert together.scores.tolist() == [a.scores[0] for a in alone]
        assert together.families == tuple(s.item.family for s in wanted)
    assert 0.5 < together.scores.mean() < 1


def test_a_score_is_an_exact_match_but_for_case_and_full_stop():
    items = {"letter": samples(15)[13]}
    answered = answer(model(), load_processor("demo"), list(items.values()))
    assert answered.texts[0].casefold() == items["letter"].item.answers[0].casefold()
    assert answered.scores.tolist() == [1.0]


def test_rel_avg_is_the_mean_ratio_over_families_that_the_original_solves():
    families = ("a", "a", "b", "c")
    original = Answers(("",) * 4, np.array([1, 1, 0.5, 0]), families).by_family()
    pruned = Answers(("",) * 4, np.array([1, 0, 0.5, 1]), families).by_family()
    assert relative_average(pruned, original) == pytest.approx((0.5 + 1) / 2)
    assert np.isnan(relative_average({"a": 1.0}, {"a": 0.0}))


def test_scores_compare_the_policy_with_the_original(policy):
    scores = evaluate(policy, ModelSpec(), samples=15, split="held-out", console=SILENT)
    assert scores.dropped == 0
    assert scores.original.families == tuple(i.family for i in embedded("held-out", 15))
    assert scores.original.scores.mean() > scores.policy.scores.mean()
    pairs = zip(scores.original.texts, scores.policy.texts, strict=True)
    assert scores.changed == sum(before != after for before, after in pairs) > 0
    ratios = [
        float(p) for p, o in zip(scores.policy.scores, scores.original.scores, strict=True) if o
    ]
    assert scores.relative == pytest.approx(np.mean(ratios))


def test_the_identity_changes_no_answer(tmp_path):
    builders.identity(LAYERS).save_pretrained(tmp_path)
    scores = evaluate(tmp_path, ModelSpec(), samples=5, console=SILENT)
    assert (scores.changed, scores.relative) == (0, 1.0)


def test_items_that_the_policy_was_searched_on_are_left_out(searched, tmp_path):
    rows = []
    for i, item in enumerate([*embedded("calibration", 5), *embedded("train", 3)]):
        item.images[0].save(tmp_path / f"{i}.png")
        rows.append({"image": f"{i}.png", "question": item.question, "answer": item.answers[0]})
    data = tmp_path / "mixed.jsonl"
    data.write_text("\n".join(map(json.dumps, rows)))
    solve(searched, budget=["60%"], out=tmp_path / "again")
    for path in (searched, searched / "policy_config.json", tmp_path / "again"):
        scores = evaluate(path, ModelSpec(), data=data, console=SILENT)
        assert (scores.dropped, len(scores.original.texts)) == (5, 3)


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """A run on data with five questions about each picture, and the data."""
    folder = tmp_path_factory.mktemp("shared")
    rows = []
    for i, item in enumerate(embedded("train", 5)):
        for kind in ("png", "bmp"):
            item.images[0].save(folder / f"{i}.{kind}")
        rows += [
            {"image": f"{i}.{'bmp' if q % 2 else 'png'}", "question": f"{q}?", "answer": "red"}
            for q in range(5)
        ]
    data = folder / "shared.jsonl"
    data.write_text("\n".join(map(json.dumps, [*rows, *rows])))
    settings = {"samples": 3, "heldout": 4, "n_v": (".5",), "objective": "additive"}
    config = RunConfig(data=data, out=folder / "run", **settings)
    run(config, SILENT)
    return config, data


def test_pictures_that_the_search_saw_are_left_out_by_one_rule(shared, tmp_path):
    config, data = shared
    said = StringIO()
    scores = evaluate(config.out, ModelSpec(), data=data, console=Console(file=said, width=300))
    tested = {item.digest() for item in run_items(config, test=99).heldout}
    unseen = opsearch.Run(config.out).unseen(opsearch.load_items(data))
    assert {item.digest() for item in unseen} == tested
    assert len(unseen) == 2 * len(tested) == 2 * len(scores.original.texts)
    assert scores.dropped == 25 - len(tested)
    assert re.search(naming(25, 50), said.getvalue())
    seen = RunFolder(config.out).seen()
    assert not {digest for item in unseen for digest in item.picture_digests} & set(seen.pictures)
    # A solve needs the measurements only, and records the same.
    for name in ("run.yaml", "measurements.db"):
        (tmp_path / name).write_bytes((config.out / name).read_bytes())
    solve(tmp_path, budget=["60%"])
    assert RunFolder(tmp_path).seen() == seen


def test_groups_that_the_search_saw_are_left_out(shared, tmp_path):
    record = json.loads(RunFolder(shared[0].out).solution.read_text())
    solution = RunFolder(tmp_path).solution
    solution.write_text(json.dumps(record | {"groups": ["g"]}))
    new = embedded("test", 3)
    items = [replace(item, group=name) for item, name in zip(new, ("g", "h", None), strict=True)]
    links = [item_links(item) for item in items]
    assert unseen_rows(links, RunFolder(tmp_path).seen()) == [False, True, True]


def test_a_run_of_an_earlier_version_is_told(shared, tmp_path):
    config, data = shared
    builders.identity(LAYERS).save_pretrained(tmp_path)
    record = json.loads(RunFolder(config.out).solution.read_text())
    del record["pictures"], record["groups"]
    RunFolder(tmp_path).solution.write_text(json.dumps(record))
    said = StringIO()
    options = {"data": data, "samples": 1, "console": Console(file=said, width=300)}
    assert evaluate(tmp_path, ModelSpec(), **options).dropped == 0
    assert re.search(naming(RunFolder(tmp_path).solution, "`opsearch run`"), said.getvalue())
    (tmp_path / "run.yaml").write_bytes((config.out / "run.yaml").read_bytes())
    with pytest.raises(RunFolderError, match=naming(RunFolder(tmp_path).solution)):
        opsearch.Run(tmp_path).unseen([])


def test_a_policy_that_was_searched_on_unknown_items_is_told(policy):
    said = StringIO()
    assert (
        evaluate(policy, ModelSpec(), samples=1, console=Console(file=said, width=300)).dropped == 0
    )
    assert str(policy) in said.getvalue()


def test_nothing_left_is_an_error(searched):
    with pytest.raises(DataError, match=naming(5)):
        evaluate(searched, ModelSpec(), split="calibration", samples=5, console=SILENT)


def test_data_without_answers_is_an_error(policy, tmp_path):
    embedded("train", 1)[0].images[0].save(tmp_path / "a.png")
    data = tmp_path / "bare.jsonl"
    data.write_text('{"image": "a.png", "question": "what color?", "answers": []}')
    with pytest.raises(DataError, match=naming("bare/1")):
        evaluate(policy, ModelSpec(), data=data, console=SILENT)


@pytest.mark.parametrize(
    ("change", "values"),
    [
        ({"model_type": "qwen2_5_vl"}, ("'qwen2_5_vl'", "'llava'")),
        ({"layers": 5}, ("5 layers", 12, "--model")),
    ],
    ids=["family", "layers"],
)
def test_a_policy_of_another_model_is_refused_before_any_work(tmp_path, change, values):
    counts = HALF.counts[: change.get("layers", LAYERS)]
    Policy(counts, model_type=change.get("model_type"), rankers=HALF.rankers).save_pretrained(
        tmp_path
    )
    said = StringIO()
    with pytest.raises(PolicyError, match=naming(*values)):
        evaluate(tmp_path, ModelSpec(), samples=3, console=Console(file=said))
    assert said.getvalue() == ""


@pytest.mark.parametrize(
    ("options", "values"),
    [
        ({"split": "dev"}, ("'dev'", "train", "calibration", "held-out", "test")),
        ({"samples": 0}, (0, 1)),
        ({"seed": -1}, ("-1", 0)),
        ({"model": ModelSpec("nowhere")}, ("'nowhere'", "demo")),
        ({"model": ModelSpec(dtype="int8")}, ("int8", "float32")),
        ({"model": ModelSpec(device="abacus")}, ("abacus", "cpu")),
    ],
    ids=str,
)
def test_bad_options_get_a_sentence(policy, options, values):
    with pytest.raises(OpsearchError, match=naming(*values)):
        evaluate(policy, console=SILENT, **{"model": ModelSpec(), "samples": 2, **options})


def test_samples_without_answers_are_refused_before_weights_are_loaded(policy, tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    row = {"image": "a.png", "question": "what color ?", "answer": None}
    (tmp_path / "data.jsonl").write_text(json.dumps(row))
    out = StringIO()
    with refuses(DataError, "data/1"):
        evaluate(policy, ModelSpec(), data=tmp_path / "data.jsonl", console=Console(file=out))
    assert not re.search("encoding|loading", out.getvalue())
