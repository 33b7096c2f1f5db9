"""`opsearch eval --tasks` with workers on Ray: the same answers, each once, whoever is lost."""

import os
import re
import signal
from importlib.util import find_spec
from io import StringIO
from uuid import uuid4

import pytest
from rich.console import Console

from opsearch import RankerSpec
from opsearch.commands.cli import call
from opsearch.errors import ModelError
from opsearch.evaluation.lmms.answerer import AnswererModel
from opsearch.evaluation.lmms.evaluate import evaluate_tasks
from opsearch.evaluation.lmms.log import FILE_NAME, AnswerLog
from opsearch.measure.workers.cluster import Workers, joined
from opsearch.models.spec import ModelSpec
from opsearch.policy import builders
from tests.measure.test_scale_out import MARK, assert_all_end, marked

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(300),
    pytest.mark.skipif(find_spec("ray") is None, reason="ray is not installed"),
]
TASK, DOCUMENTS = "embedded_color", 12
HALF = builders.tokens(12, "1/2", RankerSpec("cls"))


@pytest.fixture(scope="module")
def ray():
    """A Ray of two cores that this process stays connected to; gives the mark of its workers."""
    mark = os.environ[MARK] = uuid4().hex
    with joined(2, None):
        yield mark
    del os.environ[MARK]
    assert_all_end(mark, 30, "ray::")


def evaluate(folder, workers=None, limit=DOCUMENTS):
    """Evaluate in a folder of its own; the result, and what was said meanwhile."""
    said = StringIO()
    source = AnswererModel(ModelSpec(), limit)
    found = evaluate_tasks(folder, [TASK], source, Console(file=said, width=300), workers)
    return found, said.getvalue()


@pytest.fixture
def folders(tmp_path):
    """Two folders with the same policy."""
    for name in ("alone", "shared"):
        HALF.save_pretrained(tmp_path / name)
    return tmp_path / "alone", tmp_path / "shared"


def lines(folder):
    return sorted((folder / FILE_NAME).read_text().splitlines())


def test_a_killed_worker_is_replaced_and_every_answer_is_there_once(ray, folders, monkeypatch):
    alone, shared = folders
    expected, _ = evaluate(alone)
    monkeypatch.setattr("opsearch.evaluation.lmms.evaluate._SHARD", 2)
    killed, add = [], AnswerLog.add

    def killing(self, *args, **facts):
        add(self, *args, **facts)
        if not killed:
            killed.append(marked(ray, "ray::RemoteAnswerer")[0])
            os.kill(killed[0], signal.SIGKILL)

    monkeypatch.setattr(AnswerLog, "add", killing)
    found, said = evaluate(shared, Workers(2))
    assert killed
    assert re.search(r"\bworker\b.*\(", said)  # and then why
    assert repr(found) == repr(expected)
    assert lines(shared) == lines(alone)


def test_an_interrupted_evaluation_goes_on_with_workers(ray, folders, capsys):
    alone, shared = folders
    expected, _ = evaluate(alone)
    evaluate(shared, limit=3)  # in this process: both know what the other has answered
    known = set(lines(shared))
    command = ["eval", str(shared), f"--tasks={TASK}", f"--limit={DOCUMENTS}", "--workers=2"]
    assert call(command) == 0
    assert re.search(rf"\b1 tasks?\b\D*\b{DOCUMENTS}\b", capsys.readouterr().out)
    assert known < set(lines(shared))
    assert lines(shared) == lines(alone)
    assert repr(evaluate(shared, Workers(2))[0]) == repr(expected)
    assert lines(shared) == lines(alone)


def test_what_a_worker_refuses_is_said_as_here(ray, tmp_path):
    builders.tokens(12, "1/2", RankerSpec("cdpruner", (("clip", "no/such"),))).save_pretrained(
        tmp_path / "odd"
    )
    with pytest.raises(ModelError) as here:
        evaluate(tmp_path / "odd")
    with pytest.raises(ModelError) as there:
        evaluate(tmp_path / "odd", Workers(1))
    assert str(here.value) == str(there.value)
