"""`opsearch eval --tasks`: original against policy on the embedded model, in a stock wrapper."""

import json
import re
import shutil
from io import StringIO
from itertools import islice

import datasets
import numpy as np
import pytest
from rich.console import Console

from opsearch import RankerSpec, RunConfig
from opsearch.commands.cli import call
from opsearch.data.demo import MODEL_DIR
from opsearch.data.embedded import embedded
from opsearch.data.lmms import lmms_items, load_task
from opsearch.errors import DataError, ModelError, PolicyError, UnknownNameError
from opsearch.evaluation.lmms.answerer import Answerer, AnswererModel
from opsearch.evaluation.lmms.benchmarks import BENCHMARKS, task_name
from opsearch.evaluation.lmms.evaluate import evaluate_tasks
from opsearch.evaluation.lmms.log import FILE_NAME
from opsearch.evaluation.lmms.scores import Evaluation, TaskScores
from opsearch.evaluation.lmms.wrappers import load_wrapper
from opsearch.models.loading import ATTENTIONS
from opsearch.models.spec import ModelSpec
from opsearch.policy import builders
from opsearch.policy.policy import Policy
from opsearch.runs.samples import run_items
from tests.evaluation.lmms.data import PER_TASK, rows, write_task
from tests.support.messages import naming

LAYERS = 12
HALF = builders.tokens(LAYERS, "1/2", RankerSpec("cls"))
SILENT = Console(file=StringIO())
SMALL = ("ai2d", "pope", "chartqa")


def evaluate(path, names, limit=None, model="demo", dtype="float32"):
    return evaluate_tasks(path, names, AnswererModel(ModelSpec(model, dtype), limit), SILENT)


@pytest.fixture
def policy(tmp_path):
    HALF.save_pretrained(tmp_path / "policy")
    return tmp_path / "policy"


@pytest.fixture
def local(tmp_path):
    """Names of made benchmarks."""
    return lambda *names: [write_task(tmp_path, name) for name in names]


@pytest.mark.slow
def test_all_thirteen_run_end_to_end_and_answer_nothing_twice(policy, local):
    names = local(*BENCHMARKS)
    first = evaluate(policy, names, limit=1)
    assert [task.name for task in first.tasks] == list(BENCHMARKS)
    for task in first.tasks:
        assert len(task.original) == len(task.policy) == 1
        assert {*task.original, *task.policy} <= {0.0, 1.0}
        assert task.official is None
    written = (policy / FILE_NAME).read_bytes()
    assert written.count(b"\n") == 2 * len(BENCHMARKS)
    assert repr(evaluate(policy, names, limit=1)) == repr(first)
    assert (policy / FILE_NAME).read_bytes() == written


def test_the_wrapper_loads_the_attention_that_is_asked_for():
    wrapper = load_wrapper(ModelSpec("demo", "float32", "cpu", "eager"))
    assert wrapper.model.config.get_text_config()._attn_implementation == "eager"
    with pytest.raises(ModelError, match=naming("'flash'", "sdpa", "eager", "flash_attention_2")):
        load_wrapper(ModelSpec("demo", "float32", "cpu", "flash"))
    names = [
        Answerer(AnswererModel(ModelSpec(attention=attention), 1)).load()
        for attention in ATTENTIONS[:2]
    ]
    assert len(set(names)) == 2


def test_figures_are_those_of_plain_lmms_eval(policy, local):
    from lmms_eval.evaluator import simple_evaluate
    from lmms_eval.tasks import TaskManager

    names = local(*SMALL)
    ours = evaluate(policy, names)
    manager = TaskManager(include_path=str(policy.parent), include_defaults=False)

    def plain(wrapper):
        tasks = [BENCHMARKS[name].task for name in SMALL]
        options = {"task_manager": manager, "bootstrap_iters": 0, "log_samples": False}
        found = simple_evaluate(wrapper, tasks=tasks, batch_size=1, **options)["results"]
        keys = ("exact_match,flexible-extract", "pope_accuracy,none", "relaxed_overall,none")
        return [found[task][key] for task, key in zip(tasks, keys, strict=True)]

    # simple_evaluate takes the model out of its wrapper at the end.
    original, pruned = (load_wrapper(ModelSpec("demo", "float32", "cpu")) for _ in range(2))
    assert [task.official[0] for task in ours.tasks] == plain(original)
    with HALF.apply(pruned.model):
        assert [task.official[1] for task in ours.tasks] == plain(pruned)
    assert sum(task.changed for task in ours.tasks) > 0


def test_the_identity_changes_nothing_and_official_figures_need_whole_splits(tmp_path, local):
    builders.identity(LAYERS).save_pretrained(tmp_path / "same")
    names = local("ocrbench")
    whole = evaluate(tmp_path / "same", names)
    (task,) = whole.tasks
    assert task.changed == 0
    assert task.official[0] == task.official[1] == task.original.mean() > 0
    assert whole.relative == whole.official_relative == 1.0
    assert whole.interval() == (1.0, 1.0)
    part = evaluate(tmp_path / "same", names, limit=PER_TASK - 1)
    assert part.tasks[0].official is None
    assert np.isnan(part.official_relative)


def test_an_embedded_family_is_scored_by_exact_match(policy):
    ours = evaluate(policy, ["embedded_color"], limit=4)
    texts = [json.loads(line)["text"] for line in (policy / FILE_NAME).read_text().splitlines()]
    answers = [item.answers[0] for item in embedded("test", 60) if item.family == "color"]
    right = [text == answer for text, answer in zip(texts[:4], answers, strict=True)]
    assert ours.tasks[0].original.tolist() == right
    assert sum(right) >= 3


def test_an_interrupted_evaluation_goes_on(policy, local):
    names = local("chartqa")
    whole = evaluate(policy, names)
    log = policy / FILE_NAME
    lines = log.read_bytes().splitlines(keepends=True)
    log.write_bytes(b"".join(lines[:3]) + lines[3][:20])
    assert repr(evaluate(policy, names)) == repr(whole)
    assert len(log.read_bytes().splitlines()) == len(lines) + 1


@pytest.mark.parametrize("file", ["processor_config.json", "tokenizer.json", "config.json"])
def test_a_checkpoint_that_changed_answers_anew(file, policy, local, tmp_path):
    folder = shutil.copytree(MODEL_DIR, tmp_path / "model")
    names, log = local("chartqa"), policy / FILE_NAME
    evaluate(policy, names, limit=1, model=str(folder))
    moved = shutil.copytree(folder, tmp_path / "moved" / "model")
    evaluate(policy, names, limit=1, model=str(moved))
    assert len(log.read_bytes().splitlines()) == 2
    path = moved / file
    old, new = {
        "processor_config.json": ('"image_std": [\n      0.5', '"image_std": [\n      0.4'),
        "tokenizer.json": ('"red"', '"Red"'),
        "config.json": ('"rms_norm_eps": 1e-05', '"rms_norm_eps": 1e-04'),
    }[file]
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))
    evaluate(policy, names, limit=1, model=str(moved))
    assert len(log.read_bytes().splitlines()) == 4


def test_documents_that_the_policy_was_searched_on_are_left_out(tmp_path, local):
    (name,) = local("chartqa")
    options = ["--samples=2", "--heldout=0", "--n-v=.5", "--objective=additive", "--budget=60%"]
    run = tmp_path / "run"
    asked = f"lmms:{name}"
    assert call(["run", f"--data={asked}", *options, f"--out={run}"]) == 0
    (task,) = evaluate(run, [name]).tasks
    assert (task.dropped, len(task.original)) == (2, PER_TASK - 2)
    assert task.official is None
    (other,) = evaluate(run, local("ocrbench"), limit=1).tasks
    assert other.dropped == 0


def test_documents_with_pictures_that_the_search_saw_are_left_out(tmp_path, local):
    """The search saw them under other questions, and as files."""
    (name,) = local("chartqa")
    lines = []
    for number, row in enumerate(rows("chartqa")[:2]):
        row["image"].save(tmp_path / f"{number}.png")
        lines.append({"image": f"{number}.png", "question": "what color ?", "answers": []})
    data = tmp_path / "calibration.jsonl"
    data.write_text("\n".join(map(json.dumps, lines)))
    options = ["--samples=2", "--heldout=0", "--n-v=.5", "--objective=additive", "--budget=60%"]
    assert call(["run", f"--data={data}", *options, f"--out={tmp_path / 'run'}"]) == 0
    (task,) = evaluate(tmp_path / "run", [name]).tasks
    assert (task.dropped, len(task.original)) == (2, PER_TASK - 2)


def test_documents_of_one_picture_are_drawn_into_one_part(tmp_path, local):
    (name,) = local("chartqa")
    asked = [row | {"question": f"{n} ?"} for n in range(3) for row in rows("chartqa")]
    documents = datasets.Dataset.from_list(asked).cast_column("image", datasets.Image())
    documents.to_parquet(tmp_path / "chartqa.parquet")
    config = RunConfig(data=f"lmms:{name}", samples=4, heldout=6)
    drawn = run_items(config)
    assert (len(drawn.calibration), len(drawn.heldout)) == (4, 6)
    first, second = (
        {picture for item in part for picture in item.picture_digests}
        for part in (drawn.calibration, drawn.heldout)
    )
    assert (len(first), len(second), first & second) == (2, 2, set())
    (note,) = drawn.notes
    assert re.search(naming("4 calibration", "6 held-out", 12, 4), note)
    few = run_items(RunConfig(data=config.data, samples=1, heldout=0))
    assert [item.id for item in few.calibration] == [i.id for i in islice(lmms_items(name, 0), 1)]


def test_an_error_of_the_model_is_not_an_empty_answer(tmp_path, local, monkeypatch):
    HALF.save_pretrained(tmp_path / "p")

    def broken(*args):
        raise PolicyError("no such ranking")

    monkeypatch.setattr("opsearch.models.pruned.apply.plan_inputs", broken)
    with pytest.raises(PolicyError, match="no such ranking"):
        evaluate(tmp_path / "p", local("pope"), limit=1)


def test_rel_avg_and_its_interval_are_paired():
    original, policy = np.array([1.0, 1.0, 0.0, 1.0]), np.array([1.0, 0.0, 0.0, 1.0])
    half = TaskScores("half", original, policy, 0, 1, (3.0, 1.5))
    same = TaskScores("same", original, original, 0, 0, (0.5, 0.5))
    failed = TaskScores("failed", np.zeros(2), np.ones(2), 0, 2, (0.0, 1.0))
    found = Evaluation("demo", None, (half, same, failed))
    assert half.ratio == pytest.approx(2 / 3)
    assert found.relative == pytest.approx((2 / 3 + 1) / 2)
    assert found.official_relative == pytest.approx((0.5 + 1) / 2)
    low, high = found.interval()
    assert low < found.relative < high
    assert np.nanstd(same.resampled(0)) == 0


@pytest.mark.parametrize(
    ("searched", "model", "ok"),
    [("demo", "other/demo", True), ("llava-hf/llava-1.5-7b-hf", "demo", False)],
)
def test_a_policy_of_another_model_is_refused(tmp_path, searched, model, ok):
    from opsearch.evaluation.lmms.evaluate import _check_model

    policy = Policy(HALF.counts, rankers=HALF.rankers, provenance={"model": searched})
    if ok:
        _check_model(policy, model)
        return
    policy.save_pretrained(tmp_path)
    with pytest.raises(PolicyError, match=r"'llava-hf/.*'demo'.*--model\b"):
        evaluate(tmp_path, ["embedded_color"])


def test_a_task_without_images_is_refused(tmp_path):
    (tmp_path / "bare.jsonl").write_text('{"question": "who?", "answer": "me"}\n' * 2)
    (tmp_path / "bare.yaml").write_text(
        "task: bare\ndataset_path: json\noutput_type: generate_until\ntest_split: test\n"
        f"dataset_kwargs: {{data_files: {{test: {tmp_path}/bare.jsonl}}}}\n"
        "doc_to_text: question\ndoc_to_target: answer\n"
        "metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]\n"
    )
    with pytest.raises(DataError, match=r"bare\b"):
        load_task(f"{tmp_path}/bare")


@pytest.mark.parametrize(
    ("settings", "values"),
    [
        ({}, ("vqav2_val", "gone.parquet'}")),
        (
            {"dataset_kwargs": None, "dataset_path": "lmms-lab/gone"},
            ("vqav2_val", "lmms-lab/gone", "HF_HUB_OFFLINE"),
        ),
    ],
    ids=["file", "hub"],
)
def test_data_that_cannot_be_reached_are_named(tmp_path, monkeypatch, settings, values):
    from lmms_eval.api.task import ConfigurableTask
    from tenacity import wait_none

    monkeypatch.setattr(ConfigurableTask.download.retry, "wait", wait_none())
    gone = {"dataset_kwargs": {"data_files": {"validation": str(tmp_path / "gone.parquet")}}}
    name = write_task(tmp_path, "vqav2", **(gone | settings))
    with pytest.raises(DataError, match=naming(*values)):
        load_task(task_name(name))


def test_an_unknown_task_and_a_missing_folder_are_named(tmp_path, local):
    local("pope")
    with pytest.raises(UnknownNameError, match=r"pop'.*\bpope\b"):
        load_task(f"{tmp_path}/pop")
    with pytest.raises(DataError, match=naming("nowhere", "FOLDER/TASK")):
        load_task("nowhere/pope")


@pytest.mark.parametrize(
    ("options", "values"),
    [
        (["--tasks=embedded_color", "--split=test"], ("--split", "--tasks")),
        (["--limit=3"], ("--limit", "--tasks", "--samples 3")),
        (["--tasks=embedded_color", "--limit=0"], (0, "--limit", 1)),
        (["--workers=2"], ("--workers", "--ray-address", "--tasks")),
    ],
    ids=["split", "limit alone", "limit", "workers alone"],
)
def test_options_that_do_not_go_together(policy, capsys, options, values):
    assert call(["eval", str(policy), *options]) == 1
    assert re.search(naming(*values), capsys.readouterr().err)


def test_the_command_prints_scores_and_official_figures(policy, local, capsys):
    names = local("chartqa")
    assert call(["eval", str(policy), f"--tasks={names[0]}"]) == 0
    said = capsys.readouterr().out
    assert "official" in said
    assert re.search(r"Rel\. Avg\. .*\b1 tasks?\b\D*\b4\b", said)
    assert call(["eval", str(policy), f"--tasks={names[0]},{names[0]}", "--limit=2"]) == 0
    said = capsys.readouterr().out
    assert re.search(r"\b1 tasks?\b\D*\b2\b", said)
    assert re.search(r"\n[^%]*\b2\b[^%]*$", said)  # of each task
