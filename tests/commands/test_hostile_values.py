"""Huge numbers, long values and escape sequences from users and files do no harm."""

import json
import logging
import re
import time
from dataclasses import replace
from fractions import Fraction
from io import StringIO

import pytest
import yaml

import opsearch
from opsearch.analysis.heatmap import save_heatmap
from opsearch.commands.cli import call
from opsearch.commands.cli.print_policy import print_policy
from opsearch.console import PlainConsole
from opsearch.data.cells import text as cell
from opsearch.errors import OpsearchError, PolicyError, echo, one_line, shortened, without_controls
from opsearch.formatting import parse_memory, parse_number
from opsearch.policy import builders
from opsearch.policy.counts import parse_share
from opsearch.policy.policy import Policy
from opsearch.problem import Budget
from opsearch.progress import Progress
from opsearch.runs.config import RunConfig
from opsearch.runs.setup import parse_keep
from tests.support.messages import refuses

EVIL = "\x1b[2J\x1b]0;x\x07"
NAME = f"dop{EVIL} \x9b31m\u202egnp\u2066 caf\u00e9"
HUGE = ("1e-99999999", "1e30000000", "1E9_9999999", "9" * 5000, "1/" + "7" * 5000, "." + "1" * 9000)


@pytest.fixture
def quickly():
    """Fail if a test computes for long; the first one to import torch takes some seconds."""
    start = time.process_time()
    yield
    assert time.process_time() - start < 20


def in_bounds(said):
    """Return a message that repeats no value at length."""
    assert not re.search(r"\d{100}|\S{210}", said), said
    assert said == without_controls(said)
    return said


# Numbers


@pytest.mark.usefixtures("quickly")
@pytest.mark.parametrize("number", HUGE, ids=lambda number: number[:9])
@pytest.mark.parametrize(
    "read",
    [
        lambda number: builders.tokens(4, number),
        lambda number: Policy(((number, 1, 1),)),
        lambda number: Policy(((1, 1, f"{number}%"),)),
        lambda number: Budget.parse(f"{number}%"),
        lambda number: Budget.parse(f"{number}T"),
        lambda number: Budget.parse(f"{number}ms"),
        lambda number: RunConfig.checked(n_v=(number,)),
        lambda number: RunConfig.checked(groups=(number, "1")),
        lambda number: RunConfig.checked(memory=f"{number}GB"),
        lambda number: RunConfig.checked(pairs=number),
        lambda number: RunConfig.checked(samples=number),
        lambda number: RunConfig.checked(seed=number),
        lambda number: RunConfig.checked(evaluations=number),
        lambda number: parse_keep(number, 12),
    ],
)
def test_a_huge_number_is_refused_at_once(read, number):
    with pytest.raises((OpsearchError, KeyError)) as raised:
        read(number)
    in_bounds(str(raised.value))


@pytest.mark.usefixtures("quickly")
@pytest.mark.parametrize("number", HUGE, ids=lambda number: number[:9])
def test_a_huge_number_in_a_policy_file_is_refused_at_once(tmp_path, number):
    file = builders.tokens(4, "1/2").save_pretrained(tmp_path)
    content = json.loads(file.read_text())
    content["counts"][1][2] = number
    file.write_text(json.dumps(content))
    with refuses(PolicyError, "counts.1.2", "'9/16'") as raised:
        Policy.from_pretrained(tmp_path)
    in_bounds(str(raised.value))


@pytest.mark.parametrize("value", ["NaN", "Infinity", "1e999", "9" * 50, "9" * 5000], ids=range(5))
def test_a_parameter_of_a_ranker_in_a_policy_file_is_finite_and_short(tmp_path, value):
    file = builders.tokens(4, "1/2", opsearch.RankerSpec("random", (("seed", 7),)))
    file = file.save_pretrained(tmp_path)
    file.write_text(file.read_text().replace('"seed": 7', f'"seed": {value}'))
    with pytest.raises(PolicyError) as raised:
        Policy.from_pretrained(tmp_path)
    in_bounds(str(raised.value))


@pytest.mark.parametrize("number", [*HUGE, "nan", "inf", "1e999"], ids=range(9))
def test_a_parameter_of_a_ranker_is_no_huge_number(number):
    with pytest.raises(OpsearchError) as raised:
        opsearch.search(
            *opsearch.load_model("demo"),
            opsearch.load_items("demo", samples=1),
            budget="80%",
            space="tokens",
            ranker=f"random(seed={number})",
            progress=False,
        )
    in_bounds(str(raised.value))


@pytest.mark.usefixtures("quickly")
@pytest.mark.parametrize(
    "line", [f"n_v: [{HUGE[0]}]", f"budget: {HUGE[1]}%", f"samples: {HUGE[3]}", "seed: 1e400"]
)
def test_a_huge_number_in_run_yaml_is_refused_at_once(tmp_path, line):
    file = tmp_path / "run.yaml"
    file.write_text(f"{line}\nout: {tmp_path}\n")
    if line.startswith("budget"):
        with pytest.raises(OpsearchError) as raised:
            [Budget.parse(text) for text in RunConfig.load(file).budget]
    else:
        with pytest.raises(OpsearchError) as raised:
            RunConfig.load(file)
    in_bounds(str(raised.value))


@pytest.mark.parametrize("value", [1e308, float("inf"), 10**400, "x" * 10**5], ids=range(4))
def test_numbers_of_data_files_stay_texts_or_are_refused(value):
    try:
        assert isinstance(cell(value), str)
    except ValueError as error:
        in_bounds(str(error))


@pytest.mark.parametrize(
    ("number", "value"),
    [
        ("0.42", Fraction(21, 50)),
        ("9/16", Fraction(9, 16)),
        ("1e-99", Fraction(1, 10**99)),
        (" 5e2 ", 500),
        ("562949953421313/1125899906842624", Fraction(562949953421313, 1125899906842624)),
    ],
)
def test_numbers_of_usual_size_are_exact(number, value):
    assert parse_number(number) == parse_share(number) == value
    assert parse_share(f"{number.strip()}%") == value / 100


def test_amounts_of_memory_are_still_read():
    assert parse_memory("8.5GB") == 8_500_000_000


# Long values


@pytest.mark.parametrize(
    ("value", "most"),
    [
        *[("x" * 10**6, 50), ("'" * 100, 90), (10**10**4, 50), (["x" * 99] * 9, 50), (1.5, 5)],
        ([10**5000], 50),
    ],
    ids=range(6),
)
def test_a_value_is_repeated_in_part(value, most):
    assert len(echo(value)) <= most
    assert len(shortened(value)) <= 43


def test_short_values_are_repeated_whole():
    assert echo("9/17") == "'9/17'"
    assert echo("x" * 40) == f"'{'x' * 40}'"
    assert echo("x" * 41) == f"'{'x' * 37}'..."
    assert echo(12) == "12"
    assert shortened("a\nb") == "a b"


@pytest.mark.usefixtures("quickly")
@pytest.mark.parametrize(
    "arguments",
    [
        ["run", f"--solver={'x' * 9000}"],
        ["run", f"--ranker={'x' * 9000}"],
        ["run", f"--budget={'x' * 9000}"],
        ["run", f"--n-v={'x' * 9000}"],
        ["run", f"--pairs={'x' * 9000}"],
        ["run", f"--samples={'9' * 9000}"],
        ["run", f"--memory={'9' * 9000}GB"],
        ["run", f"--keep={'9' * 9000}", "--space=layers"],
        ["list", "x" * 9000],
        ["x" * 9000],
    ],
    ids=lambda arguments: arguments[-1][:9],
)
def test_the_command_line_repeats_long_values_in_part(arguments, capsys, tmp_path):
    out = ["--out", str(tmp_path / "run")] if arguments[0] == "run" else []
    assert call([*arguments, *out]) in (1, 2)
    said = capsys.readouterr()
    assert len(said.out + said.err) < 2000
    assert "Traceback" not in said.err
    assert not re.search(r"x{60}|9{60}", said.out + said.err)


# Escape sequences


@pytest.fixture
def evil(tmp_path):
    """A policy file whose name, provenance and family hold control characters."""
    policy = builders.tokens(4, "1/2", opsearch.RankerSpec("random"))
    file = policy.save_pretrained(tmp_path / "policy")
    content = json.loads(file.read_text()) | {
        "name": NAME,
        "provenance": {f"key{EVIL}": f"value{EVIL}", "model": f"m{EVIL}"},
        "model_type": f"llava{EVIL}",
    }
    file.write_text(json.dumps(content))
    return file.parent


def assert_clean(said):
    assert said
    assert not [char for char in said if char != "\n" and not char.isprintable()], repr(said)


@pytest.mark.parametrize("command", ["show", "generate", "eval", "bench"])
def test_no_escape_sequence_of_a_policy_reaches_the_terminal(evil, command, capsys):
    code = call([command, str(evil), *(["--model=demo"] if command != "show" else [])])
    said = capsys.readouterr()
    assert code == (0 if command == "show" else 1)
    assert_clean(said.out + said.err)
    if command == "show":
        assert "dop[2J]0;x 31mgnp caf\u00e9" in said.out


def test_a_figure_of_such_a_policy_is_drawn(evil, tmp_path):
    policy = replace(Policy.from_pretrained(evil), name=f"$\\frac{NAME}")
    assert save_heatmap(policy, tmp_path / "a.png").stat().st_size > 0


def test_tables_bars_and_styles_are_clean(evil):
    stream = StringIO()
    console = PlainConsole(file=stream)
    print_policy(Policy.from_pretrained(evil), 64, None, console)
    progress = Progress(console, 1)
    with progress.stage(f"stage {EVIL} [red]plain[/red]") as tick:
        tick(1, 2)
    progress.say(f"item {NAME} [bold]kept[/bold]")
    assert_clean(stream.getvalue())
    assert "[red]plain[/red]" in stream.getvalue()
    assert "[bold]kept[/bold]" in stream.getvalue()


def test_a_terminal_gets_the_escape_sequences_of_ours_only(monkeypatch):
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.delenv("NO_COLOR", raising=False)
    stream = StringIO()
    console = PlainConsole(file=stream)
    console.print(f"title{EVIL}", style="bold")
    progress = Progress(console, 1)
    with progress.stage(f"stage{EVIL}") as tick:
        tick(1, 2)
    said = stream.getvalue()
    assert "\x1b[1m" in said, "styles are kept"
    assert "\x1b[2J" not in said
    assert "\x1b]0" not in said
    assert "\x07" not in said


def test_logged_lines_and_errors_are_clean(caplog):
    with caplog.at_level(logging.INFO, logger="opsearch"):
        Progress(None, 1).say(f"item {NAME}")
    assert_clean(caplog.messages[0])
    error = OpsearchError(f"policy {NAME}: no\nline is lost")
    assert "\nline is lost" in str(error)
    assert_clean(str(error))
    assert_clean(one_line(f"a\n{NAME}"))


def test_errors_on_a_damaged_file_are_clean(evil, capsys):
    (evil / "policy_config.json").write_text(json.dumps({"format_version": 1, NAME: 1}))
    assert call(["show", str(evil)]) == 1
    assert_clean(capsys.readouterr().err)
    (evil / "run.yaml").write_text(yaml.safe_dump({NAME: 1}, allow_unicode=True))
    assert call(["solve", str(evil)]) == 1
    assert_clean(capsys.readouterr().err)


def test_text_that_looks_like_an_emoji_code_is_printed_as_it_is():
    shown = StringIO()
    PlainConsole(file=shown).print("a:100:b :x: [red] r:key:2")
    assert shown.getvalue() == "a:100:b :x: [red] r:key:2\n"
