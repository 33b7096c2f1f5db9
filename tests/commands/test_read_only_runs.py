"""A run folder without permission to write is shown, solved, exported and analysed."""

import ctypes
import shutil
import sqlite3
import stat
import subprocess
import sys
from io import StringIO

import pandas as pd
import pytest
from rich.console import Console

from opsearch import Policy, RunConfig
from opsearch.commands.run import run

# Of Linux: what lets root write where permissions forbid it.
PR_CAPBSET_DROP, CAPABILITIES = 24, (1, 2)


def without_privileges():
    """Give up the right to ignore permissions, if the tests run as root."""
    for capability in CAPABILITIES:
        ctypes.CDLL(None).prctl(PR_CAPBSET_DROP, capability, 0, 0, 0)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("read-only")


@pytest.fixture(scope="module")
def theirs(place):
    """A run folder without permission to write."""
    config = RunConfig(
        space="dop",
        n_v=(".5",),
        objective="joint",
        complete=True,
        samples=4,
        heldout=4,
        budget=("40%",),
        out=place / "theirs",
    )
    run(config, Console(file=StringIO()))
    for path in (config.out, *config.out.rglob("*")):
        path.chmod(0o555 if path.is_dir() else 0o444)
    writes = [sys.executable, "-c", "import sys; open(sys.argv[1], 'w')", config.out / "written"]
    done = subprocess.run(writes, capture_output=True, preexec_fn=without_privileges)
    if done.returncode == 0:
        pytest.skip("permissions do not hold for the user of these tests")
    yield config.out
    config.out.chmod(0o755)


@pytest.fixture
def ours(tmp_path):
    return tmp_path


def opsearch(*words):
    command = [sys.executable, "-m", "opsearch", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, preexec_fn=without_privileges)


def listing(folder):
    return {path: path.stat().st_mtime_ns for path in (folder, *folder.rglob("*"))}


def test_everything_that_reads_works_with_out_elsewhere(theirs, ours):
    before = listing(theirs)
    commands = {
        "show": (),
        "solve": ("--budget", "30%", "--out", ours / "solved"),
        "front": ("--out", ours),
        "report": ("--out", ours),
        "export": ("--out", ours / "all.csv"),
    }
    for name, options in commands.items():
        done = opsearch(name, theirs, *options)
        assert done.returncode == 0, done.stderr
    done = opsearch("analyze", "curves", theirs, "--out", ours)
    assert done.returncode == 0, done.stderr
    assert listing(theirs) == before
    assert Policy.from_pretrained(ours / "solved").provenance["budget"] == ["30%"]
    written = {path.name for path in ours.iterdir()}
    assert {"front.csv", "report.html", "all.csv", "curves.csv"} <= written
    assert len(pd.read_csv(ours / "all.csv")) > 0


@pytest.mark.parametrize("words", [("solve",), ("front",), ("report",), ("run",)], ids=" ".join)
def test_what_would_write_there_says_so(theirs, words):
    options = ("--out",) if words == ("run",) else ()
    done = opsearch(*words, *options, theirs)
    assert done.returncode not in (0, None)
    last = done.stderr.strip().splitlines()[-1]
    assert str(theirs) in done.stderr
    assert "--out" in done.stderr or "another folder" in done.stderr, last
    assert "Traceback" not in done.stderr


def test_an_earlier_format_is_not_brought_up_to_date_there(place, theirs, ours):
    copy = shutil.copytree(theirs, place / "earlier")
    for path in (copy, *copy.iterdir()):
        path.chmod(path.stat().st_mode | stat.S_IWUSR)
    with sqlite3.connect(copy / "measurements.db") as db:
        db.execute("PRAGMA user_version=5")
    db.close()
    for path in (*copy.iterdir(), copy):
        path.chmod(0o555 if path.is_dir() else 0o444)
    done = opsearch("front", copy, "--out", ours)
    assert done.returncode != 0
    assert "format 5" in done.stderr
    copy.chmod(0o755)
