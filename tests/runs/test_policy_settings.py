"""Commands on a policy load the model that it was searched on, unless options name another."""

from dataclasses import replace

import pytest

from opsearch import RunConfig
from opsearch.commands.cli import call
from opsearch.data.embedded import embedded
from opsearch.errors import OpsearchError, PolicyError
from opsearch.policy import builders
from opsearch.runs.config import policy_settings
from tests.measure.demo import LAYERS
from tests.support.messages import naming


@pytest.fixture
def run(tmp_path):
    """A run's folder; its model is gone."""
    builders.vtw(LAYERS, 2).save_pretrained(tmp_path)
    RunConfig(model=str(tmp_path / "gone"), dtype="bfloat16", attention="eager").save(
        tmp_path / "run.yaml"
    )
    return tmp_path


def place(settings):
    return settings.model, settings.dtype, settings.device, settings.attention


@pytest.mark.parametrize("file", [".", "policy_config.json"])
def test_what_is_asked_for_goes_before_what_the_run_had(run, file):
    gone = str(run / "gone")
    assert place(policy_settings(run / file)) == (gone, "bfloat16", "cpu", "eager")
    asked = {"model": "demo", "dtype": None, "attention": "sdpa"}
    assert place(policy_settings(run / file, **asked)) == ("demo", "bfloat16", "cpu", "sdpa")


def test_without_a_run_the_defaults_of_a_run_hold(tmp_path):
    builders.vtw(LAYERS, 2).save_pretrained(tmp_path)
    assert place(policy_settings(tmp_path)) == ("demo", "float32", "cpu", "sdpa")
    assert place(policy_settings(None, dtype="float16")) == ("demo", "float16", "cpu", "sdpa")
    with pytest.raises(OpsearchError, match="--dtype 'int8'"):
        policy_settings(None, dtype="int8")


def test_a_policy_of_another_run_is_noticed(run):
    with_model = {"model": "llava-hf/llava-1.5-7b-hf"}
    replace(builders.vtw(LAYERS, 2), provenance=with_model).save_pretrained(run)
    with pytest.raises(PolicyError, match=r"'llava-hf/.*/gone'.* --model\b"):
        policy_settings(run)
    assert place(policy_settings(run, model="demo"))[:2] == ("demo", "bfloat16")
    RunConfig(**with_model).save(run / "run.yaml")
    assert policy_settings(run).model == with_model["model"]


def test_a_run_yaml_that_is_not_needed_is_not_read(run):
    (run / "run.yaml").write_text("")
    with pytest.raises(OpsearchError, match=naming(run / "run.yaml", "`opsearch run`")):
        policy_settings(run, model="demo")
    asked = {"model": "demo", "dtype": "float16", "device": "cpu", "attention": "eager"}
    assert place(policy_settings(run, **asked)) == tuple(asked.values())


def test_a_missing_policy_is_named_before_anything_else(run):
    with pytest.raises(OpsearchError, match=f"{run}/nothing"):
        policy_settings(run / "nothing")


COMMANDS = [
    ["eval", "--samples=2"],
    ["bench", "--repeats=1", "--new-tokens=1"],
    ["generate", "--prompt=what?", "--image={run}/picture.png"],
]


@pytest.mark.parametrize("words", COMMANDS, ids=lambda words: words[0])
def test_commands_load_the_model_of_the_run(run, capsys, words):
    embedded("test", 1)[0].images[0].save(run / "picture.png")
    command, *options = (word.format(run=run) for word in words)
    assert call([command, str(run), *options]) == 1
    assert f"{run}/gone" in "".join(capsys.readouterr().err.split())
    assert call([command, str(run), *options, "--model=demo"]) == 0
