"""After a lost comparison the command to try next is ready to paste."""

import shlex
from pathlib import Path

import pytest

from opsearch import RunConfig
from opsearch.commands.cli import call
from opsearch.runs.config import IN_MEMORY
from opsearch.runs.next_step import next_step
from opsearch.runs.run_folder import RunFolder


def step(**settings):
    config = RunConfig(**{"effort": 60} | settings)
    return next_step(config, RunFolder(config.out))


def test_a_search_of_another_space_is_followed_by_the_default_one():
    """What is measured stays as it is; how it is searched does not."""
    assert step(space="dop", objective="additive", solver="ortools") == "opsearch run"
    words = step(
        space="tokens",
        model="models/my model",
        data=Path("a b.jsonl"),
        device="cuda",
        budget=("20%", "50%kv"),
        heldout=9,
        keep="0:mlp",
        verify=3,
        out=Path("elsewhere"),
    )
    assert shlex.split(words) == [
        *("opsearch", "run", "--model", "models/my model", "--device", "cuda"),
        *("--data", "a b.jsonl", "--heldout", "9", "--budget", "20%", "--budget", "50%kv"),
        *("--keep", "0:mlp"),
        *("--out", "elsewhere"),
    ]


def test_the_default_search_is_followed_by_a_longer_one():
    again = "opsearch run --config runs/demo/run.yaml --effort 120"
    assert step(space="shares") == step(space="shares", effort=0) == again


def test_samples_from_python_have_no_command():
    assert step(space="tokens", data=Path(IN_MEMORY)) == ""


@pytest.mark.parametrize("settings", [{"space": "dop"}, {"space": "tokens", "budget": ("20%",)}])
def test_the_command_is_one_that_the_command_line_takes(settings, capsys):
    words = shlex.split(step(**settings))[1:]
    assert call([*words, "--dry-run", "--shape", "llava-1.5-7b", "--device", "cuda"]) == 0
    assert "space shares" in capsys.readouterr().out
