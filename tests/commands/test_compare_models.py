"""`opsearch compare` on other models than the embedded one: who takes part, and what is said."""

import io
import json
import re

import pytest
from PIL import Image
from rich.console import Console

from opsearch.commands.cli import call
from opsearch.commands.compare import compare
from opsearch.commands.run import run
from opsearch.errors import ModelError, PolicyError
from opsearch.evaluation.contenders import parse_rankers, print_unsupported_baselines
from opsearch.evaluation.stored import stored_comparison
from opsearch.models.loading import load_config
from opsearch.policy.ranker import RankerSpec
from opsearch.progress import Progress
from opsearch.runs.config import RunConfig
from tests.report.page import Page
from tests.support.families import FAMILIES, built, folder
from tests.support.families.clip import saved_clip
from tests.support.messages import naming

QUESTIONS = ("what colour is it", "how many", "what is the red")


def said(model_config, *present):
    console = Console(file=io.StringIO(), width=500)
    print_unsupported_baselines(model_config, present, Progress(console, 0))
    return console.file.getvalue().splitlines()


@pytest.mark.parametrize("name", ["llava_onevision", "qwen2_5_vl"])
def test_without_cls_every_method_that_is_missing_is_named(name):
    config = built(name, 3).config
    kind = config.vision_config.model_type
    lines = {line.split(" is ")[0]: line for line in said(config, RankerSpec("uniform"))}
    assert re.search(naming(repr(kind), "CLIP"), lines.pop("tokens cdpruner"))
    assert lines.keys() == {f"tokens {name}" for name in ("cls", "visionzip", "vispruner")}
    assert all(re.search(naming("[CLS]"), line) for line in lines.values())


def test_cdpruner_is_missing_until_it_is_given_a_clip():
    config = built("llava_next", 3).config
    (line,) = said(config, RankerSpec("cls"))
    assert re.search(naming("tokens cdpruner", "cdpruner(clip=FOLDER)"), line)
    assert said(config, RankerSpec("cdpruner", (("clip", "x"),))) == []
    assert said(load_config("demo")) == []


def test_a_ranker_that_cannot_serve_is_refused_before_anything_is_measured():
    config = load_config("demo")
    with pytest.raises(ModelError, match=naming("clip=/none", "CLIP")):
        parse_rankers(["cls", "cdpruner(clip=/none)"], config)
    with pytest.raises(PolicyError, match=naming("fastv")):
        parse_rankers(["fastv"], config)


@pytest.fixture
def model(tmp_path):
    """A folder of the tiny LLaVA-NeXT, and a run over questions that it answers at random."""
    folder.save(FAMILIES["llava_next"], tmp_path / "model", layers=2)
    lines = []
    for index, question in enumerate(QUESTIONS):
        Image.effect_noise((24, 13), 80).convert("RGB").save(tmp_path / f"{index}.png")
        lines.append({"image": f"{index}.png", "question": question, "answer": "red"})
    data = tmp_path / "data.jsonl"
    data.write_text("\n".join(map(json.dumps, lines)))
    settings = {"samples": 1, "heldout": 0, "n_v": ("1/2",), "objective": "additive"}
    settings |= {"budget": ("80%",), "evaluations": 4}
    where = {"model": str(tmp_path / "model"), "data": data, "out": tmp_path / "run"}
    run(RunConfig(**settings, **where), Console(file=io.StringIO()))
    return tmp_path / "run"


def test_rankers_asked_for_take_part_beside_the_models_own(model, tmp_path):
    asked = f"cdpruner(clip={saved_clip(tmp_path / 'clip')})", "vispruner(important=0.25)"
    console = Console(file=io.StringIO(), width=500)
    compare(model, ["70%"], samples=2, console=console, spaces=["tokens"], rankers=asked)
    entries = {entry.method: entry for entry in stored_comparison(model).entries}
    assert {f"tokens {name}" for name in ("cls", "vispruner", *asked)} <= entries.keys()
    costs = {entries[f"tokens {name}"].cost for name in ("vispruner", *asked)}
    assert len(costs) == 1
    assert "cdpruner(clip=FOLDER)" not in console.file.getvalue()


def test_what_is_left_of_a_budget_is_said(model):
    """Baselines more than 2 points below the budget are printed with the reason."""
    console = Console(file=io.StringIO(), width=500)
    compare(model, ["50%", "70%"], samples=2, console=console, spaces=["tokens"])
    text = console.file.getvalue()
    printed = re.findall(
        r"^([^\d\n]+) uses only ([\d.]+)% .*\bflops\b.* (\d+)%: (.*)", text, re.MULTILINE
    )
    left = {
        (entry.method, f"{100 * entry.share:.1f}", entry.budget.strip("%"))
        for entry in stored_comparison(model).entries
        if float(entry.budget.strip("%")) - 100 * entry.share > 2
        and not entry.method.endswith(("additive", "joint", "refined"))
    }
    assert {tuple(place) for *place, _ in printed} == left
    reasons = {method: reason for method, *_, reason in printed}
    assert reasons["VTW"] == reasons["ShortV"] != reasons["SparseVLM"]
    assert all(reasons.values())


def test_answers_that_the_original_never_gives_are_no_scale(model, capsys):
    """Nothing that is printed, drawn or written on a page is not a number."""
    given = ["--budget=50%", "--budget=70%", "--samples=2", "--space=tokens"]
    assert call(["compare", str(model), *given]) == 0
    printed, _ = capsys.readouterr()
    assert re.search(r"\b2\b.*\bRel\. Avg\..*\bKL\b", " ".join(printed.split()))
    assert re.search(r"\nVTW +\d\.\d{3}, \d+\.\d +\d\.\d{3}, \d+\.\d\n", printed)
    assert call(["analyze", "tables", str(model)]) == 0
    page = Page((model / "pareto.html").read_text()).text
    assert re.search(r"\bKL\b[^.]* \d\.\d{3} nats", page)
    for text in (printed, capsys.readouterr().out, page, (model / "pareto.csv").read_text()):
        assert not re.search(r"\bnan\b", text)
