"""run.yaml holds all settings of a run, and reading it names what is wrong with it."""

from fractions import Fraction
from pathlib import Path

import pytest
import yaml

from opsearch.errors import OpsearchError, RunFolderError
from opsearch.policy.counts import parse_share
from opsearch.runs.config import RunConfig, default_space
from tests.support.messages import naming

FULL = RunConfig(
    model="some/model",
    data=Path("data/calib.jsonl"),
    samples=7,
    heldout=0,
    seed=3,
    space="depth",
    kv="stays",
    groups=("1/8", "0.25", "50%", "1"),
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
        with pytest.raises(RunFolderError, match=naming(path)):
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
    with pytest.raises(RunFolderError, match=naming(path, "`opsearch run`", "out: runs/mine")):
        RunConfig.load(path)


@pytest.mark.parametrize("name", ["groups", "n_v"])
def test_shares_are_lists_or_text_and_may_be_numbers(tmp_path, name):
    path = tmp_path / "mine.yaml"
    for written in ("[1/8, .25, 1]", "1/8, .25, 1", "['1/8', '.25', '1']"):
        path.write_text(f"space: operations\n{name}: {written}\nout: runs/mine\n")
        shares = getattr(RunConfig.load(path), name)
        assert [parse_share(text) for text in shares] == [Fraction(1, 8), Fraction(1, 4), 1]
    given = RunConfig(**{name: (Fraction(1, 8), 0.25, 1)})
    assert getattr(given, name) == ("1/8", "0.25", "1")
    path.write_text(f"{name}: [1/4, 0]\nout: runs/mine\n")
    with pytest.raises(RunFolderError, match=naming(path, f"{name} 1/4,0", 1)):
        RunConfig.load(path)


def test_the_file_ends_with_what_shows_that_it_was_not_cut():
    assert list(RunConfig.model_fields)[-1] == "out"


@pytest.mark.parametrize(
    ("content", "values"),
    [
        ("", ("`opsearch run`",)),
        ("- a\n- b\n", ("`opsearch run`",)),
        ("model: [demo", ("while parsing", "`opsearch run`")),
        ("\0\0\0", ("#x0000", "`opsearch run`")),
        ("samples: many\n", ("samples 'many'",)),
        ("sample: 3\n", ("sample,",)),
        ("!!python/object/apply:os.system ['true']", ("os.system", "`opsearch run`")),
    ],
)
def test_a_bad_file_gets_a_sentence(tmp_path, content, values):
    path = tmp_path / "run.yaml"
    path.write_text(content)
    with pytest.raises(RunFolderError, match=naming(path, *values)):
        RunConfig.load(path)


def test_bytes_that_are_no_text_get_a_sentence(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_bytes(b"model: \xff\xfe\n")
    with pytest.raises(RunFolderError, match=naming(path, "utf-8", "`opsearch run`")):
        RunConfig.load(path)


def test_a_missing_file_gets_a_sentence(tmp_path):
    with pytest.raises(RunFolderError, match=naming(tmp_path / "run.yaml")):
        RunConfig.load(tmp_path / "run.yaml")


def test_a_folder_instead_of_a_file_gets_a_sentence(tmp_path):
    with pytest.raises(RunFolderError, match=naming(tmp_path, "Is a directory")):
        RunConfig.load(tmp_path)


@pytest.mark.parametrize(
    ("options", "values"),
    [
        ({"samples": 0}, ("--samples 0", 1)),
        ({"heldout": -1}, ("--heldout -1", 0)),
        ({"seed": -1}, ("--seed -1", 0)),
        ({"points": 1}, ("--points 1", 2)),
        ({"positions": 0}, ("--positions 0", 1)),
        ({"evaluations": 0}, ("--evaluations 0", 1)),
        ({"effort": -1.0}, ("--effort -1.0", 0)),
        ({"dtype": "int8"}, ("--dtype 'int8'", "'float32'", "'bfloat16'", "'float16'")),
        ({"kv": "flees"}, ("--kv 'flees'", "'leaves'", "'stays'")),
        (
            {"attention": "flash"},
            ("--attention 'flash'", "'sdpa'", "'eager'", "'flash_attention_2'"),
        ),
        ({"n_v": ("half",)}, ("--n-v half", "'half'", "1/4")),
        ({"n_v": ("1/0",)}, ("--n-v 1/0", "'1/0'", "1/4")),
        ({"n_v": ("2",)}, ("--n-v 2", 0, 1)),
        ({"n_v": ("0",)}, ("--n-v 0", 1)),
        ({"groups": "1/4,half"}, ("--groups '1/4,half'", "'half'", "25%")),
        ({"groups": "1/4,1/0"}, ("--groups '1/4,1/0'", "'1/0'")),
        ({"groups": ""}, ("--groups", "''", "1/4")),
        ({"groups": "0,1"}, ("--groups '0,1'", 0)),
        ({"groups": ("1/4", "200%")}, ("--groups 1/4,200%", "200%", 1)),
        ({"groups": "1/2,1/4,1"}, ("--groups '1/2,1/4,1'", "1/4", "1/2")),
        ({"groups": "1/4,25%,1"}, ("--groups '1/4,25%,1'", "1/4")),
        ({"groups": "1/8,1/4"}, ("--groups '1/8,1/4'", "1/4,1")),
        ({"groups": 1}, ("--groups 1", "--space layers")),
        ({"groups": [k / 36 for k in range(1, 37)]}, ("--groups", 36, 35)),
        ({"groups": {}}, ("--groups {}",)),
        ({"memory": "8"}, ("--memory '8'", "8GB")),
        ({"memory": "0GB"}, ("--memory '0GB'", "8GB")),
        ({"budget": ()}, ("--budget", "30%")),
    ],
    ids=str,
)
def test_a_bad_option_is_named(options, values):
    with pytest.raises(OpsearchError, match=naming(*values)):
        RunConfig.checked(**options)


def test_a_config_does_not_change():
    with pytest.raises(ValueError, match="frozen"):
        FULL.samples = 3


@pytest.mark.parametrize(
    ("written", "same"),
    [
        ("n_v: 8", {"n_v": "8"}),
        ("n_v: .5, 1/4", {"n_v": (".5", "1/4")}),
        ("n_v: [0.5, 1]", {"n_v": ("0.5", "1")}),
        ("n_v: 0.5", {"n_v": ("0.5",)}),
        ("budget: 40%", {"budget": ("40%",)}),
        ("budget: [40%, 200MB]", {"budget": ("40%", "200MB")}),
    ],
)
def test_a_file_of_ones_own_writes_values_as_yaml_has_them(tmp_path, written, same):
    file = tmp_path / "mine.yaml"
    file.write_text(f"space: dop\n{written}\nout: runs/mine\n")
    assert RunConfig.load(file) == RunConfig(**same, out=Path("runs/mine"))
    (name,) = same
    assert RunConfig.checked(**{name: yaml.safe_load(written)[name]}) == RunConfig(**same)


# The space that is searched where none is named


@pytest.mark.parametrize(
    ("given", "space"),
    [
        ({}, "shares"),
        ({"samples": 8, "budget": ("20%",), "effort": 5.0, "keep": "0", "seed": 3}, "shares"),
        ({"objective": None, "solver": None, "n_v": "16", "verify": 0, "ranker": None}, "shares"),
        ({"ranker": "cls"}, "shares"),
        ({"ranker": "cdpruner(clip=folder)"}, "shares"),
        ({"solver": "gradient"}, "shares"),
        ({"ranker": "uniform"}, "dop"),
        ({"ranker": "vispruner(important=0.3)"}, "dop"),
        ({"ranker": "fastv"}, "dop"),
        ({"objective": "joint"}, "dop"),
        ({"solver": "grid"}, "dop"),
        ({"n_v": (".5",)}, "dop"),
        ({"kv": "stays"}, "dop"),
        ({"verify": 8}, "dop"),
        ({"complete": True}, "dop"),
        ({"evaluations": 9}, "dop"),
        ({"groups": ("1/8", "1")}, "dop"),
    ],
    ids=str,
)
def test_settings_of_other_spaces_decide_the_default_space(given, space):
    assert default_space(given) == space


def test_a_file_without_a_space_has_the_default_of_its_settings(tmp_path):
    path = tmp_path / "mine.yaml"
    for written, space in (("", "shares"), ("objective: joint\n", "dop"), ("space: dop\n", "dop")):
        path.write_text(f"{written}out: runs/mine\n")
        assert RunConfig.load(path).space == space


def test_a_wrong_setting_beside_no_space_is_named(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("ranker: 3\nout: runs/mine\n")
    with pytest.raises(RunFolderError, match=naming(path, "ranker")):
        RunConfig.load(path)


def test_many_samples_are_drawn_in_shares_and_few_elsewhere():
    drawn = {
        (space, samples): RunConfig(space=space, samples=samples).drawn_samples
        for space in ("shares", "dop", "shares2")
        for samples in (None, 7)
    }
    assert [drawn[space, 7] for space in ("shares", "dop")] == [7, 7]
    assert [drawn[space, None] for space in ("shares", "dop", "shares2")] == [1024, 64, 64]
