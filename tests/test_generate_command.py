"""`opsearch generate`: both answers to a prompt, and what the policy takes for it."""

import re

import pytest

from opsearch import RankerSpec, RunConfig, builders
from opsearch.answers import answer
from opsearch.bench.latency import flop_ratio
from opsearch.cli import call
from opsearch.costs.shape import Shape
from opsearch.generate import generate
from opsearch.measure.samples import encode
from opsearch.runtime.load import load_model, load_processor
from opsearch.tasks.embedded import embedded
from tests.measure.demo import LAYERS, model

FEW = builders.tokens(LAYERS, "1/25", RankerSpec("uniform"))


@pytest.fixture
def command(capsys):
    """Runs the command; gives exit code, output and errors on one line each."""

    def run(*arguments):
        code = call(["generate", *map(str, arguments)])
        printed, said = capsys.readouterr()
        return code, " ".join(printed.split()), " ".join(said.split())

    return run


@pytest.fixture
def policy(tmp_path):
    FEW.save_pretrained(tmp_path / "policy")
    return tmp_path / "policy"


@pytest.fixture
def pictures(tmp_path):
    """Files of two pictures, and a question about the first."""
    items = embedded("test", 2)
    for i, item in enumerate(items):
        item.images[0].save(tmp_path / f"{i}.png")
    return [tmp_path / "0.png", tmp_path / "1.png"], items[0].question


@pytest.fixture
def loaded(monkeypatch):
    """What the command asks `load_model` for."""
    asked = []

    def noted(*place):
        asked.append(place)
        return load_model(*place)

    monkeypatch.setattr("opsearch.generate.load_model", noted)
    return asked


def test_an_embedded_item_can_be_tried_at_once(command, policy):
    (item,) = embedded("held-out", 1)
    processor = load_processor("demo")
    samples = encode([item], processor, model().config)
    before, after = (answer(model(), processor, samples, p).texts[0] for p in (None, FEW))
    code, printed, _ = command(policy)
    assert code == 0
    assert printed.startswith(FEW.name)
    told = f"prompt {item.question} right {item.answers[0]} original {before} policy {after} The"
    assert told in printed
    assert "100 visual and 9 other tokens" in printed
    assert "3.7 to ask (q), 4.0 to be read (kv) and 3.7 in its MLP" in printed  # the last is dead
    ratio = flop_ratio(Shape.from_config(model().config), FEW, *samples[0].shape)
    assert f"takes {100 * ratio:.4g}% of stock" in printed
    assert re.search(r"leaves [\d.]+ kB of [\d.]+ MB of KV cache\.", printed)


def test_a_prompt_may_have_several_pictures(command, tmp_path, pictures):
    builders.identity(LAYERS).save_pretrained(tmp_path)
    (first, second), question = pictures
    images = ["--image", first, "--image", second]
    code, printed, _ = command(tmp_path, *images, "--prompt", question, "--max-new-tokens=1")
    assert code == 0
    assert "200 visual and " in printed
    assert "right" not in printed
    assert "takes 100% of stock" in printed
    assert printed.endswith("New tokens: 1 by the original, 1 by the policy.")
    found = re.search(r" original (.*) policy (.*) The prompt", printed)
    assert found[1] == found[2]


def test_pictures_are_those_of_the_prompt(policy, pictures):
    (first, second), question = pictures
    found = [generate(policy, [image], question).sample.pictures for image in (first, second)]
    assert found[0] != found[1]


def test_the_model_is_that_of_the_run(command, policy, loaded):
    command(policy)
    RunConfig(dtype="bfloat16", attention="eager").save(policy / "run.yaml")
    command(policy)
    command(policy / "policy_config.json", "--attention=sdpa")
    assert loaded == [
        ("demo", "float32", "cpu", "sdpa"),
        ("demo", "bfloat16", "cpu", "eager"),
        ("demo", "bfloat16", "cpu", "sdpa"),
    ]


WRONG = [
    (["--image=gone.png", "--prompt=what?"], "the image gone.png does not exist; correct the path"),
    (["--image={broken}", "--prompt=what?"], r"bad\.png cannot be read \(.*\); replace the file"),
    (["--prompt=what?"], "no picture was given; give one or more, and a question about them, as"),
    (["--model=other"], r"no picture was given; .* only the embedded model comes with"),
    (["--image={first}"], "the prompt '' is empty; give a question, as --prompt 'What is this?'"),
    (["--image={first}", "--prompt= "], "the prompt ' ' is empty; give a question"),
    (["--image={first}", "--prompt=<image>?"], "take image placeholders out of the question"),
    (["--dtype=int8"], "--dtype 'int8': Input should be 'float32', 'bfloat16' or 'float16'"),
    (["--attention=flash_attention_2"], "computes in half precision and not in float32"),
    (["--device=meta"], "device 'meta' has shapes but no numbers"),
]


@pytest.mark.parametrize(("options", "sentence"), WRONG, ids=lambda value: str(value)[:40])
def test_what_is_wrong_is_said_before_the_model_is_loaded(
    command, policy, pictures, loaded, tmp_path, options, sentence
):
    (tmp_path / "bad.png").write_text("no picture")
    files = {"broken": tmp_path / "bad.png", "first": pictures[0][0]}
    code, printed, said = command(policy, *[option.format(**files) for option in options])
    assert (code, printed, loaded) == (1, "", [])
    assert said.startswith("error: ")
    assert re.search(sentence.replace("?'", r"\?'"), said)


def test_a_policy_of_another_depth_is_refused(command, tmp_path):
    builders.vtw(5, 2).save_pretrained(tmp_path)
    assert "the policy has 5 layers, the model's decoder has 12" in command(tmp_path)[2]
