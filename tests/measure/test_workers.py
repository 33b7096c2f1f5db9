"""A single worker, and refusals without Ray or with --device auto."""

import re
import sys
from dataclasses import replace

import pytest

from opsearch.commands.cli import call
from opsearch.errors import OpsearchError
from opsearch.measure.engine import Engine
from opsearch.measure.storage.store import ENGINE_VERSION, Store
from opsearch.measure.workers.cluster import Workers, started
from opsearch.measure.workers.worker import Worker, WorkerModel
from opsearch.models.fingerprint import fingerprint
from opsearch.models.spec import ModelSpec
from opsearch.policy.ranker import RankerSpec
from opsearch.problem.spaces.depth import dop_space
from tests.measure.demo import LAYERS, model, samples
from tests.support.messages import naming, refuses

SOURCE = WorkerModel(ModelSpec(), 1)


def test_a_worker_measures_what_the_engine_measures(tmp_path):
    space = dop_space(LAYERS, ranker=RankerSpec("cls"))
    policies = [space.decode(point) for point in ([6, 4, 3], [9, 5, 8])]
    worker, wanted = Worker(), samples(3)
    assert worker.load(SOURCE) == (fingerprint(model()), ENGINE_VERSION)
    with Store(tmp_path / "m.db", {}) as store:
        engine = Engine(model(), store)
        chunks = engine.plan(policies, wanted).chunks
        values = engine.measure(policies, wanted)
        expected = store.get([policy.canonical(100) for policy in policies])
    found = [row for chunk in chunks for row in worker.measure(chunk, frozenset({"cls_attention"}))]
    assert len(found) == values.size == len(expected)
    assert {(row.policy, row.item): row.kl for row in found} == expected
    assert worker.layer() == -1


def test_without_workers_nothing_is_started():
    with started(None, SOURCE, print) as pool:
        assert pool is None


@pytest.mark.parametrize(
    ("settings", "option"), [((2, None), "--workers 2"), ((None, "auto"), "--ray-address auto")]
)
def test_without_ray_the_error_names_the_package_to_install(monkeypatch, settings, option):
    monkeypatch.setitem(sys.modules, "ray", None)
    with refuses(OpsearchError, option, "Ray", "pip install 'opsearch[ray]'"):
        Workers(*settings)


def test_the_command_line_refuses_before_anything_is_done(monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(sys.modules, "ray", None)
    for command in (["run", "--out", str(tmp_path / "run")], ["compare", str(tmp_path / "run")]):
        assert call([*command, "--workers=2"]) == 1
        printed, said = capsys.readouterr()
        assert (printed, said.count("\n")) == ("", 1)
        assert re.search(naming("--workers 2", "pip install 'opsearch[ray]'"), said)
    assert not (tmp_path / "run").exists()


def test_workers_have_a_device_each():
    everywhere = replace(SOURCE, model=ModelSpec(device="auto"))
    refused = refuses(OpsearchError, "worker", "--device auto", "--device cuda")
    with refused, started(Workers(2), everywhere, print):
        pass
