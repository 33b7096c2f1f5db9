"""`opsearch front --measure`: a front of what was measured, in a space too large to list."""

import json
import re
from io import StringIO

import pandas as pd
import pytest
from rich.console import Console

from opsearch import RunConfig
from opsearch.analysis.front import front
from opsearch.commands.cli import call
from opsearch.commands.searched_front import searched_front
from opsearch.data.embedded import embedded
from opsearch.errors import OpsearchError, UnknownNameError
from opsearch.measure.storage.store import Store
from opsearch.models.encoding import encode
from opsearch.models.spec import ModelSpec
from opsearch.runs.samples import run_items
from tests.support.messages import naming

SETTINGS = {"samples": 1, "heldout": 0, "n_v": ("1/4", "1"), "budget": ("40%",)}


def silent():
    return Console(file=StringIO(), width=200)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return begun(tmp_path_factory.mktemp("searched"), space="layers")


def begun(folder, **settings):
    """The folder of a run that was stopped before it measured anything."""
    RunConfig(**{**SETTINGS, **settings}, out=folder).save(folder / "run.yaml")
    return folder


def stored(folder):
    """The distinct policies that the folder holds."""
    with Store(folder / "measurements.db") as store:
        return {measurement.policy for measurement in store.everything()}


def test_it_measures_the_given_number_of_policies_and_stores_them(folder):
    searched_front(folder, 1, console=silent())
    before = stored(folder)
    found, path = searched_front(folder, 12, console=silent())
    after = stored(folder)
    # Some are among those of the proxy, and one is the original.
    assert 6 < len(after - before) <= 12
    assert re.search(naming(len(found.table), 12, 3, "--measure"), found.sentence)
    assert not found.table["proved"].any()
    costs, values = found.table["cost"].to_numpy(), found.table["value"].to_numpy()
    assert front(costs, values).tolist() == list(range(len(costs)))
    assert values[-1] < 1e-4 < values[0]
    written = pd.read_csv(path)
    assert path.name == "front_joint.csv"
    assert written["policy"].tolist() == found.table["policy"].tolist()
    assert found.header == "joint, nats"
    assert found.answer is None  # the run was stopped before it had one
    assert found.budgets == (found.constraint.stock * 4 // 10,)
    # Started again it measures nothing and finds the same; a larger number goes on.
    again, _ = searched_front(folder, 12, console=silent())
    pd.testing.assert_frame_equal(again.table, found.table)
    assert stored(folder) == after


def test_it_measures_on_the_samples_of_the_run_where_few_pictures_are_divided(tmp_path):
    """How they are divided depends on the number of held-out samples."""
    data = tmp_path / "rows.jsonl"
    for number, item in enumerate(embedded("train", 2)):
        item.images[0].save(tmp_path / f"{number}.png")
    rows = [{"image": f"{n % 2}.png", "question": f"{n}?", "answer": "a"} for n in range(6)]
    data.write_text("\n".join(map(json.dumps, rows)))
    settings = {"samples": 2, "heldout": 3, "seed": 1, "data": data, "space": "layers"}
    folder = begun(tmp_path / "run", **settings)
    items = run_items(RunConfig.load(folder / "run.yaml")).calibration
    assert len({item.images for item in items}) == 1
    searched_front(folder, 1, console=silent())
    spec = ModelSpec()
    wanted = {sample.digest for sample in encode(items, spec.load_processor(), spec.load_config())}
    with Store(folder / "measurements.db") as store:
        assert {measurement.item for measurement in store.everything()} == wanted


def test_the_command_prints_it_with_another_cost_in_a_file_of_its_own(folder, capsys):
    assert call(["front", str(folder), "--measure", "5", "--cost", "kv"]) == 0
    printed = capsys.readouterr().out
    assert "--measure" in printed
    assert "yes" not in printed.split()
    assert "front_joint_kv.csv" in printed.replace("\n", "")
    assert (folder / "front_joint_kv.csv").exists()
    with pytest.raises(UnknownNameError, match="watts"):
        searched_front(folder, 5, "watts", silent())


def test_a_space_that_can_be_listed_has_an_exact_front(tmp_path):
    listed = begun(tmp_path, space="dop")
    with pytest.raises(
        OpsearchError, match=naming("'dop'", "--objective joint --complete --budget 100%`")
    ):
        searched_front(listed, 5, console=silent())


def test_a_run_over_recipes_has_none_to_search(tmp_path):
    with pytest.raises(OpsearchError, match=naming("'recipes'", "layers", "operations")):
        searched_front(begun(tmp_path, space="recipes"), 5, console=silent())
