"""Without lmms-eval the error names the command that installs it."""

import sys

from opsearch.commands.cli import call
from opsearch.data.lmms import load_task
from opsearch.errors import OpsearchError
from tests.support.messages import refuses


def test_a_missing_extra_is_named_with_its_pip_line(monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(sys.modules, "lmms_eval", None)
    monkeypatch.setitem(sys.modules, "lmms_eval.tasks", None)
    with refuses(OpsearchError, "lmms_eval", "pip install 'opsearch[lmms]'"):
        load_task("textvqa_val")
    assert call(["run", "--data=lmms:textvqa_val", f"--out={tmp_path / 'run'}"]) == 1
    assert "pip install 'opsearch[lmms]'" in capsys.readouterr().err
