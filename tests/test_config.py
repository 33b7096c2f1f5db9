"""run.yaml holds everything a run was told, and reading it back says what is wrong with it."""

import re
from pathlib import Path

import pytest

from opsearch.config import RunConfig
from opsearch.errors import OpsearchError, RunFolderError

FULL = RunConfig(
    model="some/model",
    data=Path("data/calib.jsonl"),
    samples=7,
    heldout=0,
    seed=3,
    space="depth",
    kv="stays",
    n_v=(".5", "1/4"),
    ranker="uniform",
    budget=("14%", "200MB"),
    objective="additive",
    points=4,
    positions=2,
    solver="grid",
    evaluations=9,
    effort=1.5,
    memory="8GB",
    out=Path("runs/x"),
)


@pytest.mark.parametrize("config", [RunConfig(), FULL], ids=["defaults", "full"])
def test_a_saved_config_loads_equal(tmp_path, config):
    assert RunConfig.load(config.save(tmp_path / "run.yaml")) == config


def test_the_file_lists_every_setting(tmp_path):
    lines = FULL.save(tmp_path / "run.yaml").read_text().splitlines()
    assert {line.split(":")[0] for line in lines if line[0].isalpha()} == set(FULL.model_dump())


def test_a_file_that_was_cut_is_refused(tmp_path):
    """A cut at the end of a line leaves valid YAML; it must not be completed with defaults."""
    path = RunConfig().save(tmp_path / "run.yaml")
    lines = path.read_text().splitlines(keepends=True)
    for end in range(len(lines)):
        path.write_text("".join(lines[:end]))
        with pytest.raises(RunFolderError, match=r"run\.yaml .*(run` again|correct it)"):
            RunConfig.load(path)


def test_what_an_older_version_did_not_write_is_as_without_the_option(tmp_path):
    path = FULL.save(tmp_path / "run.yaml")
    later = ("stages", "keep", "tie", "pairs", "verify")
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(line for line in lines if line.split(":")[0] not in later))
    assert len(lines) - len(path.read_text().splitlines()) == len(later)
    assert RunConfig.load(path) == FULL


def test_a_file_of_ones_own_says_what_differs_and_where_it_goes(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("space: depth\nbudget: [14%]\nout: runs/mine\n")
    expected = RunConfig(space="depth", budget=("14%",), out=Path("runs/mine"))
    assert RunConfig.load(path) == expected
    path.write_text("space: depth\n")
    sentence = r"mine\.yaml lacks out, which comes last: .* add the folder of the run, e\.g\. out: "
    with pytest.raises(RunFolderError, match=sentence):
        RunConfig.load(path)


def test_the_file_ends_with_what_shows_that_it_was_not_cut():
    assert list(RunConfig.model_fields)[-1] == "out"


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("", "is empty or truncated; run `opsearch run` again"),
        ("- a\n- b\n", "is empty or truncated; run `opsearch run` again"),
        ("model: [demo", "cannot be read (.*); run `opsearch run` again"),
        ("\0\0\0", "cannot be read (.*); run `opsearch run` again"),
        ("samples: many\n", "is not valid: samples 'many': .*; correct it"),
        ("sample: 3\n", "has sample, which is no setting of this opsearch: .*; remove it and run"),
        ("!!python/object/apply:os.system ['true']", "cannot be read (.*); run"),
    ],
)
def test_a_bad_file_gets_a_sentence(tmp_path, content, sentence):
    path = tmp_path / "run.yaml"
    path.write_text(content)
    with pytest.raises(RunFolderError, match=re.escape(str(path)) + " " + sentence):
        RunConfig.load(path)


def test_bytes_that_are_no_text_get_a_sentence(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_bytes(b"model: \xff\xfe\n")
    with pytest.raises(RunFolderError, match=r"run\.yaml cannot be read \(.*; run `opsearch run`"):
        RunConfig.load(path)


def test_a_missing_file_gets_a_sentence(tmp_path):
    with pytest.raises(RunFolderError, match="does not exist; give the folder of an earlier run"):
        RunConfig.load(tmp_path / "run.yaml")


def test_a_folder_instead_of_a_file_gets_a_sentence(tmp_path):
    with pytest.raises(RunFolderError, match=r"cannot be read .*Is a directory"):
        RunConfig.load(tmp_path)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"samples": 0}, "--samples 0: Input should be greater than or equal to 1; correct it"),
        ({"heldout": -1}, "--heldout -1: Input should be greater than or equal to 0; correct it"),
        ({"seed": -1}, "--seed -1: .* greater than or equal to 0; correct it"),
        ({"points": 1}, "--points 1: .* greater than or equal to 2; correct it"),
        ({"positions": 0}, "--positions 0: .* greater than or equal to 1; correct it"),
        ({"evaluations": 0}, "--evaluations 0: .* greater than or equal to 1; correct it"),
        ({"effort": -1.0}, "--effort -1.0: .* greater than or equal to 0; correct it"),
        ({"dtype": "int8"}, "--dtype 'int8': .*'float32', 'bfloat16' or 'float16'; correct it"),
        ({"kv": "flees"}, "--kv 'flees': Input should be 'leaves' or 'stays'; correct it"),
        (
            {"attention": "flash"},
            "--attention 'flash': .*'sdpa', 'eager' or 'flash_attention_2'; correct it",
        ),
        ({"n_v": ("half",)}, "--n-v .*'half' is not a share such as 0.25 or 1/4; correct it"),
        ({"n_v": ("1/0",)}, "--n-v .*'1/0' is not a share such as 0.25 or 1/4; correct it"),
        ({"n_v": ("2",)}, "--n-v .*2 is not a share between 0 and 1; correct it"),
        ({"n_v": ("0",)}, "--n-v .*0 is not a share between 0 and 1; correct it"),
        (
            {"memory": "8"},
            "--memory '8': is not an amount of memory such as 8GB or 500MB; correct it",
        ),
        ({"memory": "0GB"}, "--memory '0GB': is not an amount of memory .*; correct it"),
        ({"budget": ()}, "--budget .*: at least one budget is needed, e.g. 30%; correct it"),
    ],
    ids=str,
)
def test_a_bad_option_is_named(options, sentence):
    with pytest.raises(OpsearchError, match="^" + sentence):
        RunConfig.checked(**options)


def test_a_config_does_not_change():
    with pytest.raises(ValueError, match="frozen"):
        FULL.samples = 3


def test_another_space_is_told_nothing_that_it_cannot_take():
    config = RunConfig(space="layers", keep="0:mlp", tie="q=kv", seed=3)
    other = config.over("operations")
    assert (other.keep, other.tie) == ("0:mlp", None)
    dop = config.over("dop")
    assert (dop.space, dop.keep, dop.tie) == ("dop", None, None)
    assert config.over("dop").seed == 3
