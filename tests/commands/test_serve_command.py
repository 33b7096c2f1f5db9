"""`opsearch serve`: the command of the server, and policies that it refuses; it runs no vLLM."""

import json
import re
import shlex
import sys
from dataclasses import replace
from fractions import Fraction
from functools import partial
from importlib.util import find_spec
from io import StringIO

import pytest
from rich.console import Console

from opsearch import RankerSpec, RunConfig, builders
from opsearch.commands.cli import call
from opsearch.commands.run import run
from opsearch.data.demo import MODEL_DIR
from opsearch.policy.images import ImageSetting
from tests.support.families import FAMILIES
from tests.support.messages import naming
from tests.support.tiny import llava

LAYERS = 12
PROGRAM = [sys.executable, "-m", "vllm.entrypoints.openai.api_server"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A run with a further answer."""
    path = tmp_path_factory.mktemp("runs") / "demo"
    few = {"samples": 2, "heldout": 2, "n_v": (".5",), "out": path}
    for budget in ("100%", "90%"):
        run(RunConfig(budget=(budget,), **few), Console(file=StringIO()))
    return path


@pytest.fixture
def serve(capsys):
    """Runs the command; gives exit code, output and errors on one line."""

    def command(*arguments):
        code = call(["serve", *map(str, arguments)])
        printed, said = capsys.readouterr()
        return code, printed, " ".join(said.split())

    return command


def saved(policy, path):
    policy.save_pretrained(path)
    return path


def overrides(path):
    return ["--hf-overrides", json.dumps({"opsearch_policy": str(path)})]


def test_a_run_an_answer_and_a_policy_are_served_with_the_model_of_the_run(serve, folder, tmp_path):
    (answer,) = (folder / "answers").iterdir()
    own = tmp_path / "policy_config.json"
    own.write_bytes((folder / "policy_config.json").read_bytes())
    for path in (folder, answer, tmp_path, own):
        code, printed, _ = serve(path, "--dry-run", "--", "--port", "8001", "--api-key", "a b")
        assert code == 0
        setting, *command = shlex.split(printed)
        assert setting == "VLLM_USE_V2_MODEL_RUNNER=0"
        assert command == [
            *PROGRAM,
            *("--model", str(MODEL_DIR), "--served-model-name", "demo"),
            *overrides(path),
            *("--port", "8001", "--api-key", "a b"),
        ]


def test_the_server_is_told_how_many_prompts_to_check(serve, folder):
    code, printed, _ = serve(folder, "--self-check", "5", "--dry-run", "--json")
    command = json.loads(printed)["command"]
    assert code == 0
    told = json.loads(command[command.index("--hf-overrides") + 1])
    assert told == {"opsearch_policy": str(folder.resolve()), "opsearch_selfcheck": 5}


def test_another_model_is_served_if_the_policy_fits_it(serve, folder, tmp_path):
    model = llava(layers=LAYERS)
    model.save_pretrained(tmp_path / "model")
    code, printed, _ = serve(folder, "--model", tmp_path / "model", "--dry-run", "--json")
    command = json.loads(printed)["command"]
    assert code == 0
    assert command == [*PROGRAM, "--model", str(tmp_path / "model"), *overrides(folder)]


@pytest.mark.parametrize(
    ("model", "parts"),
    [
        (partial(llava, layers=3), ["12 layers", "has 3"]),
        (partial(FAMILIES["vipllava"].model, LAYERS), ["VipLlava", "Qwen3VL", "policy.install"]),
    ],
    ids=["layers", "family"],
)
def test_a_model_that_the_policy_cannot_be_served_with_is_refused(serve, tmp_path, model, parts):
    model().save_pretrained(tmp_path / "model")
    path = saved(builders.identity(LAYERS), tmp_path / "policy")
    code, printed, said = serve(path, "--model", tmp_path / "model", "--dry-run")
    assert (code, printed) == (1, "")
    assert re.search(naming(*parts), said)


@pytest.mark.parametrize("option", ["--model=x", "--hf-overrides", "--hf_overrides.a=1"])
def test_options_that_would_undo_the_policy_are_refused(serve, folder, option):
    code, _, said = serve(folder, "--dry-run", "--", option)
    assert code == 1
    assert re.search(naming(option, "--model"), said)


def test_policies_that_cannot_be_served_are_refused(serve, tmp_path):
    inside = saved(builders.fastv(LAYERS, 2, "1/2"), tmp_path / "inside")
    other = replace(builders.identity(LAYERS), model_type="qwen2_vl")
    half = ImageSetting(Fraction(1, 2), (("size.longest_edge", 100),))
    smaller = replace(builders.tokens(LAYERS, "1/2", RankerSpec("cls")), images=half)
    for path, parts in (
        (inside, ["inside the decoder", "divprune"]),
        (saved(other, tmp_path / "other"), ["'qwen2_vl'", "'llava'"]),
        (saved(smaller, tmp_path / "smaller"), ["1/2", "--images"]),
        (tmp_path / "none", [str(tmp_path / "none"), "policy_config.json"]),
    ):
        code, printed, said = serve(path, "--dry-run")
        assert (code, printed) == (1, "")
        assert re.search(naming(*parts), said)


@pytest.mark.skipif(find_spec("vllm") is not None, reason="vLLM is installed")
def test_without_vllm_the_next_step_is_to_install_it(serve, folder):
    code, printed, said = serve(folder)
    assert (code, printed) == (1, "")
    assert said.endswith("pip install 'opsearch[vllm]'")
    assert "starting" not in said


def test_another_release_of_vllm_is_refused(serve, folder, tmp_path, monkeypatch):
    (tmp_path / "vllm.py").write_text('__version__ = "0.33.1"\n')
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "vllm", raising=False)
    code, _, said = serve(folder)
    monkeypatch.delitem(sys.modules, "vllm")
    assert code == 1
    assert re.search(naming("0.33.1", "vllm==0.32"), said)


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        (["--engine=vllm", "--tasks=mme"], ["--tasks", "--engine vllm"]),
        (["--engine=vllm", "--ray-address=auto"], ["--ray-address", "--engine vllm"]),
        (["--engine=vllm", "--", "--hf-overrides={}"], ["--hf-overrides", "--model"]),
        (["--", "--dtype=float32"], ["'--dtype=float32'", "--engine vllm"]),
    ],
)
def test_evaluation_refuses_options_of_the_other_engine(capsys, tmp_path, options, parts):
    path = saved(builders.identity(LAYERS), tmp_path)
    assert call(["eval", str(path), *options]) == 1
    printed, said = capsys.readouterr()
    assert not printed
    assert re.search(naming(*parts), " ".join(said.split()))
