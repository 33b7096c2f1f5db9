"""What is nearly right is understood, or the sentence names what was meant."""

import re
import subprocess
import sys

import pytest

from opsearch import RunConfig
from opsearch.commands.cli import call
from opsearch.costs.shape import CHECKPOINTS, known_checkpoint
from opsearch.errors import ModelError, OpsearchError, UnknownNameError, nearest_name
from opsearch.models.loading import check_device, load_config, load_processor
from opsearch.policy.ranker import parse_ranker
from opsearch.problem.budget import Budget
from opsearch.rankers import known_ranker
from opsearch.registry import KINDS, as_registered, lookup, names
from opsearch.version import __version__
from tests.support.messages import naming


@pytest.mark.parametrize("kind", KINDS)
def test_a_misspelt_part_is_recognised(kind):
    for name in names(kind):
        wrong = name[:-1] + "_" if len(name) > 3 else name + name[-1]
        with pytest.raises(UnknownNameError, match=naming(f"did you mean '{name}'?")):
            lookup(kind, wrong)
        assert nearest_name(wrong.upper(), names(kind)) == name


def test_a_name_like_no_other_gets_the_list_alone():
    with pytest.raises(UnknownNameError) as raised:
        lookup("solvers", "mystery")
    assert "mean" not in str(raised.value)
    assert all(name in str(raised.value) for name in names("solvers"))


def test_names_are_taken_in_any_case():
    config = RunConfig(space="DOP", objective="Additive", solver="OrTools")
    assert (config.space, config.objective, config.solver) == ("dop", "additive", "ortools")
    assert RunConfig(space="Dop(kv=stays)").space == "dop(kv=stays)"
    assert as_registered("spaces", "operations (an object)") == "operations (an object)"
    assert as_registered("spaces", "elsewhere") == "elsewhere"


@pytest.mark.parametrize(
    ("typed", "meant"),
    [("30", "30%"), ("0.3", "30%"), ("1", "100%"), ("12.5", "12.5%"), (".07", "7%")],
)
def test_a_budget_without_a_unit_is_asked_for(typed, meant):
    with pytest.raises(OpsearchError, match=naming(repr(typed), f"did you mean {meant}?")):
        Budget.parse(typed)
    assert Budget.parse(meant).relative


@pytest.mark.parametrize("typed", ["300", "0", "...", "1.2.3", "1" * 99])
def test_other_numbers_without_a_unit_are_no_share(typed):
    with pytest.raises(OpsearchError, match=naming("30%, -70%")):
        Budget.parse(typed)


@pytest.mark.parametrize(("typed", "meant"), [("gpu", "cuda"), ("GPU:1", "cuda:1")])
def test_a_gpu_is_called_cuda(typed, meant):
    with pytest.raises(ModelError, match=naming(repr(typed), f"--device {meant}")):
        check_device(typed, "float32")


@pytest.mark.parametrize("typed", ["CLS", "DivPrune", "FastV", "VisPruner(important=0.3)"])
def test_rankers_are_taken_in_any_case(typed):
    name, _, parameters = typed.partition("(")
    meant = name.casefold() + (f"({parameters}" if parameters else "")
    assert RunConfig(ranker=typed).ranker == meant
    assert str(parse_ranker(typed)) == meant
    known_ranker(parse_ranker(typed))


def test_a_misspelt_ranker_is_recognised_of_either_kind():
    for typed, meant in (("VisPruners", "vispruner"), ("fastvv", "fastv")):
        with pytest.raises(UnknownNameError, match=naming(f"did you mean '{meant}'?")):
            known_ranker(parse_ranker(typed))


@pytest.mark.parametrize("short", CHECKPOINTS)
def test_a_shape_is_named_as_the_listed_models_are(short):
    checkpoint = CHECKPOINTS[short]
    for name in (short, short.upper(), checkpoint.hub_id, checkpoint.hub_id.lower()):
        assert known_checkpoint(name) is checkpoint
    with pytest.raises(UnknownNameError, match=naming(f"did you mean '{checkpoint.hub_id}'?")):
        known_checkpoint(f"{checkpoint.hub_id}_")


def test_a_dry_run_takes_the_names_of_listed_models(capsys):
    given = ["run", "--dry-run", "--space=dop"]
    assert call([*given, "--shape=llava-1.5-7b"]) == 0
    wanted = capsys.readouterr().out
    assert call(["list", "models"]) == 0
    (listed,) = re.findall(r"\S+llava-1\.5-7b\S+", capsys.readouterr().out)
    assert call([*given, f"--shape={listed}"]) == 0
    assert capsys.readouterr().out == wanted


@pytest.mark.parametrize(
    "option",
    [
        *("--space=dops", "--objective=joints", "--solver=girds", "--ranker=clss", "--budget=30"),
        *("--device=gpu", "--model=./nosuch", "--data=nosuch.jsonl", "--dtype=float", "--pairs=x"),
    ],
)
def test_a_wrong_option_of_run_is_refused_before_torch_is_loaded(option):
    given = [] if option.startswith("--space") else ["--space=layers"]
    line = "import sys; from opsearch.commands.cli import call; call(sys.argv[1:]); "
    line += "sys.exit('torch' in sys.modules)"
    command = [sys.executable, "-c", line, "run", *given, option, "--out=nowhere"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0
    assert done.stderr.startswith("error: ")


@pytest.mark.parametrize("name", ["./nosuch", "/nosuch/model", "../nosuch"])
@pytest.mark.parametrize("load", [load_config, load_processor])
def test_a_missing_folder_is_called_missing(load, name):
    with pytest.raises(ModelError, match=naming(repr(name), "does not exist")):
        load(name)


def test_the_version_is_printed(capsys):
    assert call(["--version"]) == 0
    assert capsys.readouterr().out.strip() == f"opsearch {__version__}"


def test_a_refused_option_names_where_it_is_described():
    with pytest.raises(OpsearchError, match=naming("--heldout", "-1", "`opsearch run --help`")):
        RunConfig.checked(heldout=-1)
