"""--json prints what the files hold, and --quiet nothing but results and errors."""

import json
import math
from fractions import Fraction
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from opsearch.commands.cli import app, call
from opsearch.commands.cli.output import err, plain
from opsearch.data.demo.families import FAMILIES

TINY = ["--space=tokens", "--samples=4", "--heldout=4", "--complete"]


@pytest.fixture
def opsearch(capsys):
    """Runs a command line; gives what it prints to standard output and standard error."""

    def command(*arguments):
        capsys.readouterr()
        assert call([str(each) for each in arguments]) == 0
        return capsys.readouterr()

    return command


@pytest.fixture
def printed(opsearch):
    """Runs a command with --json and returns its only line, parsed as strict JSON."""

    def command(*arguments):
        (line,) = opsearch(*arguments, "--json").out.splitlines()
        return json.loads(line, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))

    return command


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("runs") / "tokens"
    assert call(["run", *TINY, f"--out={place}", "--quiet"]) == 0
    return place


def file(path):
    return json.loads(Path(path).read_text())


def rows(path):
    """Return the rows of a CSV file, as JSON gives them."""
    return plain(pd.read_csv(path).to_dict("records"))


def same(found, wanted):
    """Compare rows whose numbers went through a CSV file."""
    assert len(found) == len(wanted) > 0
    for one, other in zip(found, wanted, strict=True):
        assert one.keys() == other.keys()
        for name, value in one.items():
            if isinstance(value, int | float) and not isinstance(value, bool):
                assert other[name] == pytest.approx(value, rel=1e-12), name
            else:
                assert str(other[name] or "") == str(value or ""), name


def test_every_command_takes_both_options():
    for command in app.registered_commands:
        names = command.callback.__annotations__
        assert {"quiet", "as_json", "debug"} <= set(names), command.callback


def test_a_run_is_its_solution_its_policy_and_its_comparison(printed, tmp_path):
    found = printed("run", *TINY, f"--out={tmp_path / 'run'}")
    assert found["folder"] == str(tmp_path / "run")
    assert found["solution"] == file(tmp_path / "run" / "solution.json")
    assert found["policy"] == file(tmp_path / "run" / "policy_config.json")
    table = pd.read_csv(tmp_path / "run" / "comparison.csv", index_col=0)
    assert found["comparison"].keys() == set(table.columns)
    for method, column in found["comparison"].items():
        assert column.keys() == set(table.index)
        for name, value in column.items():
            known = table.loc[name, method]
            assert math.isnan(known) if value is None else known == pytest.approx(value, rel=1e-12)


def test_a_dry_run_is_its_plan(printed, opsearch):
    given = ["run", "--dry-run", "--shape=llava-1.5-7b", "--space=dop"]
    found, text = printed(*given), opsearch(*given).out
    joint = found["estimates"]["joint"]
    assert f"joint: {joint['policies']:,} policies on {joint['samples']} samples" in text
    assert found["chosen"] in " ".join(text.split())
    assert found["seconds"]["joint"] > 0


def test_a_solve_is_its_solution_and_its_policy(printed, folder, tmp_path):
    found = printed("solve", folder, "--budget=60%", f"--out={tmp_path}")
    assert found["solution"] == file(tmp_path / "solution.json")
    assert found["solution"]["budget"] == ["60%"]
    assert found["policy"] == file(tmp_path / "policy_config.json")


def test_a_front_is_the_rows_of_its_file(printed, folder):
    found = printed("front", folder)
    same(found["points"], rows(found["file"]))
    assert found["unit"] == "nats"
    assert all(isinstance(point["proved"], bool) for point in found["points"])


def test_a_policy_is_its_file(printed, folder, tmp_path):
    found = printed("show", folder, f"--figure={tmp_path / 'a.svg'}")
    assert found.pop("figure") == str(tmp_path / "a.svg")
    assert found == file(folder / "policy_config.json")
    assert printed("show", folder)["figure"] is None


def test_an_export_counts_its_rows(printed, folder, tmp_path):
    found = printed("export", folder, f"--out={tmp_path / 'all.csv'}")
    assert found["measurements"] == len(pd.read_csv(found["file"])) > 0


def test_a_list_holds_the_names_that_the_text_does(printed, opsearch):
    found, text = printed("list"), opsearch("list").out
    for kind, parts in found.items():
        assert printed("list", kind) == {kind: parts}
        for name, sentence in parts.items():
            assert f"{name} " in text
            assert sentence in text


def test_an_evaluation_holds_the_numbers_of_its_table(printed, opsearch, folder):
    given = ["eval", folder, "--samples=30"]
    found, text = printed(*given), opsearch(*given).out
    assert list(found["families"]) == list(FAMILIES)
    lines = {line.split()[0]: line.split() for line in text.splitlines() if line}
    for family, row in found["families"].items():
        assert lines[family][1] == f"{100 * row['original']:.1f}%"
        assert lines[family][2] == f"{100 * row['policy']:.1f}%"
        assert lines[family][-1] == str(row["samples"]) == "2"
        if row["original"]:
            assert row["ratio"] == row["policy"] / row["original"]
        else:
            assert row["ratio"] is None
    ratios = [row["ratio"] for row in found["families"].values() if row["ratio"] is not None]
    assert found["relative"] == pytest.approx(np.mean(ratios))
    assert f"Rel. Avg. {100 * found['relative']:.1f}%" in text
    assert found["samples"] == 30


def test_a_comparison_is_the_rows_of_its_file(printed, folder):
    given = ["--space=tokens", "--budget=60%", "--samples=2"]
    found = printed("compare", folder, *given)
    assert str(folder / "pareto.csv") in found["files"]
    same(found["tables"]["pareto.csv"], rows(folder / "pareto.csv"))


def test_an_analysis_is_the_rows_of_its_files(printed, folder, tmp_path):
    found = printed("analyze", "rank", folder, f"--out={tmp_path}")
    same(found["tables"]["rank.csv"], rows(tmp_path / "rank.csv"))


def test_times_are_those_of_the_file(printed, folder, tmp_path):
    out = tmp_path / "times.jsonl"
    found = printed("bench", folder, "--repeats=1", "--new-tokens=2", f"--out={out}")
    *_, last = map(json.loads, out.read_text().splitlines())
    assert found == last
    assert found["flop_ratio"] > 0


def test_a_report_is_its_path(printed, folder):
    assert printed("report", folder) == {"report": str(folder / "report.html")}


def test_answers_are_those_of_the_text(printed, opsearch, folder):
    found, text = printed("generate", folder), opsearch("generate", folder).out
    assert f"original  {found['original']['text']}\n" in text
    assert f"policy    {found['policy']['text']}\n" in text
    assert f"{found['visual_tokens']} visual and {found['other_tokens']} text tokens" in text


def test_progress_stays_on_standard_error_unless_quiet(opsearch, folder):
    given = ["eval", folder, "--samples=5", "--json"]
    loud, quiet = opsearch(*given), opsearch(*given, "--quiet")
    assert "4/4" in loud.err
    assert quiet.err == ""
    assert loud.out == quiet.out
    assert "4/4" in opsearch(*given).err, "--quiet of an earlier command"


def test_a_quiet_run_prints_its_result(opsearch, tmp_path):
    given = ["run", *TINY, f"--out={tmp_path / 'run'}"]
    loud, quiet = opsearch(*given), opsearch(*given, "--quiet")
    assert quiet.err == ""
    assert "accuracy" in quiet.out
    assert loud.out.splitlines()[0] == quiet.out.splitlines()[0]


@pytest.mark.parametrize("given", [["--quiet"], ["--json"], ["--quiet", "--json"]])
def test_errors_stay_sentences_on_standard_error(capsys, given):
    assert call(["show", "nowhere", *given]) == 1
    printed, said = capsys.readouterr()
    assert printed == ""
    assert said.startswith("error: ")
    assert not err.quiet


def test_values_of_any_kind_become_json():
    value = {
        1: np.float64("nan"),
        "a": [np.int64(3), math.inf, True, None, Fraction(1, 3)],
        "b": pd.DataFrame({"x": [1.5, math.nan], "y": ["u", "v"]}),
        "c": (Path("p"), np.arange(2)),
    }
    assert json.loads(json.dumps(plain(value), allow_nan=False)) == {
        "1": None,
        "a": [3, None, True, None, "1/3"],
        "b": [{"x": 1.5, "y": "u"}, {"x": None, "y": "v"}],
        "c": ["p", [0, 1]],
    }
