"""A run folder keeps every answer: no policy that is there changes unless --replace is given."""

import json
import shutil
import subprocess
import sys
from io import StringIO
from pathlib import Path

import pandas as pd
import pytest
from rich.console import Console

from opsearch import Policy, Run, RunConfig
from opsearch.commands.analyze import analyze
from opsearch.commands.export import export
from opsearch.commands.run import run
from opsearch.commands.solve import solve
from opsearch.errors import RunFolderError
from opsearch.measure.storage.records import CALIBRATION, HELD_OUT
from opsearch.measure.storage.store import Store
from opsearch.policy.builders import identity
from opsearch.report.page import save_report
from opsearch.runs.run_folder import RunFolder
from tests.support.messages import naming

SETTINGS = {"space": "dop", "n_v": (".5",), "samples": 4, "heldout": 4, "budget": ("40%",)}


def search(folder, *, replace=False, **settings):
    config = RunConfig(**SETTINGS | settings, out=folder)
    return run(config, Console(file=StringIO()), replace=replace)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run folder with one answer."""
    folder = tmp_path_factory.mktemp("answers") / "run"
    search(folder, objective="joint", complete=True)
    return folder


@pytest.fixture
def folder(finished, tmp_path):
    copy = shutil.copytree(finished, tmp_path / "run")
    config = RunConfig.load(copy / "run.yaml")
    config.model_copy(update={"out": copy}).save(copy / "run.yaml")
    return copy


def contents(folder):
    """Return the files of the first answer of a run by name."""
    kept = (path for path in folder.iterdir() if path.suffix in {".json", ".csv", ".yaml", ".svg"})
    return {path.name: path.read_bytes() for path in kept} | {
        "report.html": (folder / "report.html").read_bytes()
    }


def test_a_run_of_other_settings_gets_a_folder_of_its_own(folder):
    before = contents(folder)
    found = search(folder, budget=("30%",), objective="joint", complete=True)
    assert found.folder == folder / "answers" / "dop-joint-grid-30"
    assert contents(folder) == before
    assert Policy.from_pretrained(found.folder).counts == found.policy.counts
    assert not (found.folder / "measurements.db").exists()
    assert Run(folder).solution["limits"] != Run(found.folder).solution["limits"]
    assert list(Run(folder).answers) == [found.folder.name]
    assert Run(folder).answers[found.folder.name].policy == found.policy


def test_the_same_settings_again_change_nothing_but_what_was_timed(folder):
    found = search(folder, objective="joint", complete=True)
    assert found.folder == folder
    assert not (folder / "answers").exists()
    before = RunConfig.load(folder / "run.yaml")
    again = search(folder, objective="joint", complete=True, budget=("30%",))
    assert search(folder, objective="joint", complete=True, budget=("30%",)).folder == again.folder
    assert RunConfig.load(folder / "run.yaml") == before
    assert [path.name for path in (folder / "answers").iterdir()] == [again.folder.name]


def test_settings_that_a_name_does_not_show_get_a_number(folder):
    first = search(folder, objective="joint", complete=True, budget=("30%",))
    second = search(folder, objective="joint", complete=True, budget=("30%",), seed=3)
    assert second.folder.name == f"{first.folder.name}-2"
    samples = {}
    for name in ("", first.folder.name, second.folder.name):
        with Store(folder / "measurements.db", result=name) as store:
            samples[name] = [sample.name for sample in store.samples(CALIBRATION)]
            assert len(store.samples(HELD_OUT)) == 4
    assert samples[""] == samples[first.folder.name] != samples[second.folder.name]


def test_replace_writes_over_the_answer(folder):
    found = search(folder, objective="joint", complete=True, budget=("30%",), replace=True)
    assert found.folder == folder
    assert not (folder / "answers").exists()
    assert Policy.from_pretrained(folder).provenance["budget"] == ["30%"]
    assert json.loads((folder / "solution.json").read_text())["settings"]["budget"] == ["30%"]


def test_a_run_file_goes_on_with_its_own_answer(folder):
    found = search(folder, objective="additive", budget=("30%",))
    config = RunConfig.load(found.folder / "run.yaml")
    assert config.out == folder
    assert run(config, Console(file=StringIO())).folder == found.folder


def test_a_policy_that_was_changed_by_hand_stays(folder):
    """The same settings lead to another policy, which is written beside the one that is there."""
    identity(Policy.from_pretrained(folder).num_layers).save_pretrained(folder)
    before = contents(folder)
    found = search(folder, objective="joint", complete=True)
    assert found.folder == folder / "answers" / "dop-joint-grid-40"
    assert contents(folder) == before


def test_a_further_answer_is_saved_as_a_run_of_its_own(folder, tmp_path):
    found = search(folder, objective="joint", complete=True, budget=("30%",), samples=3)
    saved = found.save(tmp_path / "saved")
    shutil.rmtree(folder)
    assert Run(saved).policy == found.policy
    assert len(Run(saved).measurements) > 0
    again = solve(saved, ["25%"])
    assert len(again.problem.objective.values) == len(found.problem.objective.values)
    assert again.problem.constraints[0].samples == 3


def test_every_answer_has_its_own_report_and_analyses(folder, tmp_path):
    found = search(folder, objective="joint", complete=True, budget=("30%",), samples=3)
    for place in (folder, found.folder):
        assert save_report(place) == place / "report.html"
        _, files = analyze("curves", [place])
        assert all(file.parent == place for file in files)
    shown = [export(place, tmp_path / f"{place.name}.csv") for place in (folder, found.folder)]
    assert len(shown[0]) == len(shown[1])
    for table, samples in zip(shown, (4, 3), strict=True):
        named = table[table["split"] == "calibration"]
        assert named["item"].nunique() == samples
        assert set(table["split"]) <= {"calibration", "held-out", "other"}


def test_solving_again_leaves_the_answer_with_its_comparison(folder):
    before = contents(folder)
    found = solve(folder, ["30%"])
    assert found.folder == folder / "answers" / "solved-dop-joint-grid-30"
    assert contents(folder) == before
    assert solve(folder, ["30%"]).folder == found.folder
    assert not (found.folder / "comparison.csv").exists()
    assert save_report(found.folder).exists()
    assert solve(found.folder, ["25%"]).folder.parent == found.folder.parent


def test_solving_again_leaves_the_comparison_of_an_answer(folder):
    """Also where the path of the run is written in another way."""
    found = solve(folder, ["30%"])
    (found.folder / "comparison.csv").write_text("a comparison of its own")
    again = solve(folder, ["30%"])
    assert again.folder != found.folder
    assert (found.folder / "comparison.csv").read_text() == "a comparison of its own"
    before = contents(folder)
    elsewhere = solve(folder, ["40%"], out=folder / ".." / folder.name)
    assert elsewhere.folder.resolve() != folder.resolve()
    assert contents(folder) == before
    named = solve(folder, ["22%"], out=folder.resolve() / "answers" / "mine").folder
    assert save_report(named).exists()
    assert solve(named, ["21%"]).folder.parent == named.parent


def test_a_policy_of_a_later_version_stays(folder):
    file = folder / "policy_config.json"
    later = json.dumps(json.loads(file.read_text()) | {"format_version": 99})
    file.write_text(later)
    found = search(folder, objective="joint", complete=True)
    assert found.folder.parent == folder / "answers"
    assert file.read_text() == later


def test_a_damaged_record_gives_no_answer_away(folder):
    (folder / "solution.json").write_text("{")
    before = contents(folder)
    found = search(folder, objective="joint", complete=True, budget=("30%",))
    assert found.folder.parent == folder / "answers"
    assert contents(folder) == before


def test_an_answer_on_other_samples_of_the_same_settings_stays(folder):
    """Data files of equal names may hold other samples."""
    record = json.loads((folder / "solution.json").read_text())
    record["items"][0] = "another one"
    (folder / "solution.json").write_text(json.dumps(record))
    before = contents(folder)
    assert search(folder, objective="joint", complete=True).folder.parent == folder / "answers"
    assert contents(folder) == before


def test_replace_with_the_settings_of_an_answer_takes_the_place_of_that_answer(folder):
    found = search(folder, objective="joint", complete=True, budget=("30%",))
    before = contents(folder)
    command = [sys.executable, "-m", "opsearch", "run", "--replace", "--budget=28%"]
    command += ["--config", str(found.folder / "run.yaml"), "--quiet"]
    subprocess.run(command, check=True, capture_output=True)
    assert contents(folder) == before
    assert Policy.from_pretrained(found.folder).provenance["budget"] == ["28%"]


def test_paths_with_steps_up_and_copies_without_measurements(folder, monkeypatch, tmp_path):
    found = search(folder, objective="joint", complete=True, budget=("30%",))
    (folder / "answers" / "x").mkdir()
    monkeypatch.chdir(folder / "answers" / "x")
    up = RunFolder(Path("..") / found.folder.name)
    assert (up.name, up.measurements.exists()) == (found.folder.name, True)
    monkeypatch.chdir(tmp_path)
    (folder / "measurements.db").unlink()
    assert list(Run(folder).answers) == [found.folder.name]


def test_solving_elsewhere_does_not_change_a_policy_there(folder, tmp_path):
    out = tmp_path / "out"
    first = solve(folder, ["30%"], out=out)
    second = solve(folder, ["25%"], out=out)
    assert (first.folder, second.folder.parent) == (out, out / "answers")
    assert Policy.from_pretrained(out).counts == first.policy.counts
    third = solve(folder, ["25%"], out=out, replace=True)
    assert third.folder == out
    assert Policy.from_pretrained(out).counts == second.policy.counts


def test_solving_with_replace_takes_the_place_of_the_answer(folder):
    assert solve(folder, ["30%"], replace=True).folder == folder
    assert not (folder / "comparison.csv").exists()
    assert Policy.from_pretrained(folder).provenance["budget"] == ["30%"]


@pytest.mark.parametrize("name", ["report.html", "policy_config.json", "run.yaml", "front.csv"])
def test_a_file_of_another_origin_is_not_overwritten(name, tmp_path):
    (tmp_path / name).write_text("of another program")
    with pytest.raises(RunFolderError, match=naming(tmp_path / name, "--out", "--replace")):
        search(tmp_path, objective="joint")
    assert (tmp_path / name).read_text() == "of another program"
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_folder_called_answers_is_a_folder_like_any_other(tmp_path):
    found = search(tmp_path / "answers" / "mine", objective="joint", heldout=0)
    assert (found.folder / "measurements.db").exists()
    assert RunFolder(found.folder).name == ""
    assert solve(found.folder, ["30%"]).folder.parent == found.folder / "answers"


def test_the_folder_of_a_run_is_named_by_its_model():
    assert str(RunConfig().out) == "runs/demo"
    assert str(RunConfig(model="models/mine").out) == "runs/mine"
    assert str(RunConfig.checked(model="org/name-7b").out) == "runs/name-7b"


def test_a_file_that_a_command_writes_is_not_overwritten(folder, tmp_path):
    for options in (["export", folder, "--out"], ["show", folder, "--figure"]):
        path = tmp_path / ("x.csv" if options[0] == "export" else "x.svg")
        path.write_text("mine")
        command = [sys.executable, "-m", "opsearch", *map(str, options), str(path)]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode != 0
        assert path.read_text() == "mine"
        assert str(path) in done.stderr
        subprocess.run([*command, "--replace"], check=True, capture_output=True)
        assert path.read_bytes()[:4] != b"mine"


def test_measurements_are_exported_while_the_run_goes_on(folder, tmp_path):
    """An interrupted run has settings and measurements, but no solution yet."""
    complete = export(folder, tmp_path / "complete.csv")
    (folder / "solution.json").unlink()
    with Store(folder / "measurements.db") as store:
        for split in (CALIBRATION, HELD_OUT):
            store.put_samples(split, [])
    command = [sys.executable, "-m", "opsearch", "export", folder, "--out", tmp_path / "x.csv"]
    with RunFolder(folder).locked():
        done = subprocess.run(command, check=True, capture_output=True, text=True)
    table = pd.read_csv(tmp_path / "x.csv")
    assert f"{len(complete)} measurements" in done.stdout
    assert len(table) == len(complete)
    assert "goes on" in done.stdout
    begun = complete[complete["split"] == "calibration"]
    assert (table["split"] == "calibration").sum() == len(begun)
    assert set(table["sample"].dropna()) == set(begun["sample"])
    later = subprocess.run([*command, "--replace"], check=True, capture_output=True, text=True)
    assert f"opsearch run --config {folder / 'run.yaml'}" in later.stdout
