"""`opsearch generate`: both answers to a prompt, and what the policy takes for it."""

import re

import pytest

from opsearch import RankerSpec, RunConfig
from opsearch.commands.cli import call
from opsearch.costs.shape import Shape
from opsearch.data.embedded import embedded
from opsearch.evaluation.answers import answer
from opsearch.evaluation.generate import generate
from opsearch.models.encoding import encode
from opsearch.models.loading import load_processor, load_weights
from opsearch.policy import builders
from opsearch.timing.policy_latency import flop_ratio
from tests.measure.demo import LAYERS, model
from tests.support.messages import naming

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
    """Arguments that the command gives `load_weights`."""
    asked = []

    def noted(*place):
        asked.append(place)
        return load_weights(*place)

    monkeypatch.setattr("opsearch.models.loading.load_weights", noted)
    return asked


def test_an_embedded_item_can_be_tried_at_once(command, policy):
    (item,) = embedded("held-out", 1)
    processor = load_processor("demo")
    samples = encode([item], processor, model().config)
    before, after = (answer(model(), processor, samples, p).texts[0] for p in (None, FEW))
    code, printed, _ = command(policy)
    assert code == 0
    assert printed.startswith(FEW.name)
    parts = item.question, item.answers[0], before, after
    assert re.search(" .*".join(map(re.escape, parts)), printed)
    assert re.search(r"\b100 .*\b9 ", printed)
    assert re.search(r" 3\.7 .*\b4\.0 .*\b3\.7 .*MLP", printed)  # the last is dead
    ratio = flop_ratio(Shape.from_config(model().config), FEW, *samples[0].shape)
    assert f" {100 * ratio:.4g}% " in printed
    assert re.search(r" [\d.]+ kB of [\d.]+ MB .*\bKV cache", printed)


def test_a_prompt_may_have_several_pictures(command, tmp_path, pictures):
    builders.identity(LAYERS).save_pretrained(tmp_path)
    (first, second), question = pictures
    images = ["--image", first, "--image", second]
    code, printed, _ = command(tmp_path, *images, "--prompt", question, "--max-new-tokens=1")
    assert code == 0
    assert re.search(naming(200, "100%"), printed)
    assert "expected" not in printed
    assert re.findall(r"New tokens: (\d+) .* (\d+) by", printed) == [("1", "1")]
    assert re.search(naming("1 of 1", "--max-new-tokens 128"), printed)
    found = re.search(r"original +(\w+) policy +(\w+) ", printed)
    assert found[1] == found[2]


def test_pictures_are_those_of_the_prompt(policy, pictures):
    (first, second), question = pictures
    found = [generate(policy, [image], question).sample.images_digest for image in (first, second)]
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
    (["--image=gone.png", "--prompt=what?"], ("gone.png",)),
    (["--image={broken}", "--prompt=what?"], ("bad.png",)),
    (["--prompt=what?"], ("--image a.jpg", "--prompt 'What is this?'")),
    (["--model=other"], ("--image a.jpg", "--prompt 'What is this?'")),
    (["--image={first}"], ("''", "--prompt 'What is this?'")),
    (["--image={first}", "--prompt= "], ("' '", "--prompt 'What is this?'")),
    (["--image={first}", "--prompt=<image>?"], ("<image>",)),
    (["--dtype=int8"], ("--dtype 'int8'", "'float32'", "'bfloat16'", "'float16'")),
    (["--attention=flash_attention_2"], ("float32", "--dtype bfloat16")),
    (["--device=meta"], ("'meta'", "--device cpu")),
]


@pytest.mark.parametrize(("options", "values"), WRONG, ids=lambda value: str(value)[:40])
def test_what_is_wrong_is_said_before_the_model_is_loaded(
    command, policy, pictures, loaded, tmp_path, options, values
):
    (tmp_path / "bad.png").write_text("no picture")
    files = {"broken": tmp_path / "bad.png", "first": pictures[0][0]}
    code, printed, said = command(policy, *[option.format(**files) for option in options])
    assert (code, printed, loaded) == (1, "", [])
    assert said.startswith("error: ")
    assert re.search(naming(*values), said)


def test_a_policy_of_another_depth_is_refused(command, tmp_path):
    builders.vtw(5, 2).save_pretrained(tmp_path)
    assert re.search(naming("5 layers", 12), command(tmp_path)[2])
