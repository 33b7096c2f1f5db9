"""Packages with entry points in folders of their own, and the command line with these on its path.

Entry points are found once per process, so that each set of packages needs a process of its own.
"""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
_CALLS = """
import contextlib, io, json, sys
from opsearch.commands.cli import call
said = []
for arguments in json.load(sys.stdin):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = call(arguments)
    said.append((code, " ".join(out.getvalue().split()), " ".join(err.getvalue().split())))
json.dump(said, sys.stdout)
"""


@dataclass(frozen=True)
class Said:
    """Output of a command, its spaces and line ends as one space each."""

    code: int
    out: str
    err: str

    @property
    def error(self) -> str:
        """The sentence of a command that failed, behind what it said before."""
        assert self.code == 1, self.out
        assert "Traceback" not in self.err
        assert self.err.count("error: ") == 1
        return self.err.partition("error: ")[2]


def python(site: Path, source: str, *arguments: object, given: str = "") -> str:
    """Run Python with the packages of a folder, and return what it prints."""
    path = os.pathsep.join((str(site), str(ROOT)))
    done = subprocess.run(
        [sys.executable, "-c", source, *map(str, arguments)],
        input=given, capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": path, "HF_HUB_OFFLINE": "1", "COLUMNS": "200"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def opsearch(site: Path, *commands: list[object]) -> list[Said]:
    """Run commands one after the other with the packages of a folder."""
    lines = [[str(argument) for argument in command] for command in commands]
    return [Said(*each) for each in json.loads(python(site, _CALLS, given=json.dumps(lines)))]
