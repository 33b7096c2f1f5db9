"""Streams of any encoding, readers that leave, and signals, in processes of their own."""

import errno
import os
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from subprocess import PIPE

import pytest

from opsearch import RunConfig
from opsearch.commands.cli import call
from opsearch.commands.run import run
from opsearch.policy.policy import Policy

SIGNALS = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated", signal.SIGHUP: "hung up"}
BARS = "▁▂▃▄▅▆▇█"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("runs") / "früh ▇"
    run(RunConfig(space="tokens", samples=2, heldout=2, out=place))
    return place


def opsearch(*arguments, encoding=None, **streams):
    """Start the command in a process of its own."""
    variables = {**os.environ, "PYTHONUNBUFFERED": ""}
    if encoding:
        variables["PYTHONIOENCODING"] = encoding
    line = [sys.executable, "-m", "opsearch", *map(str, arguments)]
    return subprocess.Popen(line, env=variables, **{"stdout": PIPE, "stderr": PIPE} | streams)


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "cp437", "ascii:strict", "utf-8"])
def test_a_stream_of_any_encoding_shows_the_whole_output(folder, encoding):
    printed, said = opsearch("show", folder, encoding=encoding).communicate(timeout=60)
    codec = encoding.partition(":")[0]
    shown, full = printed.decode(codec), opsearch("show", folder).communicate(timeout=60)[0]
    wanted = full.decode()
    assert any(bar in wanted for bar in BARS)
    if codec == "utf-8":
        assert shown == wanted
    for height, bar in enumerate(BARS, 1):  # a bar is itself, or its height
        if not can_encode(bar, codec):
            wanted = wanted.replace(bar, str(height))
    if not can_encode("·", codec):
        wanted = wanted.replace("·", ".")
    assert shown == wanted
    assert said == b""


def can_encode(text, codec):
    try:
        text.encode(codec)
    except UnicodeEncodeError:
        return False
    return True


def test_the_table_of_a_run_and_its_paths_come_through(tmp_path):
    out = tmp_path / "é▇"
    given = ["--space=tokens", "--samples=2", "--heldout=2", f"--out={out}"]
    process = opsearch("run", *given, encoding="ascii")
    printed, said = process.communicate(timeout=300)
    assert process.returncode == 0, said
    shown = printed.decode("ascii")
    assert "accuracy" in shown
    assert f"{tmp_path}/e7/report.html" in shown
    assert (out / "report.html").exists()


def test_an_error_and_bytes_that_are_no_text_are_printed(tmp_path):
    for name in (b"\xff\xfe", "ü".encode()):
        path = tmp_path / os.fsdecode(name)
        process = opsearch("show", path, encoding="ascii")
        printed, said = process.communicate(timeout=60)
        assert (process.returncode, printed) == (1, b"")
        assert said.startswith(b"error: ")
        assert len(said.splitlines()) == 1


@pytest.mark.parametrize("command", ["list", "show", "solve", "export", "--help", "--version"])
def test_a_reader_that_leaves_ends_the_command_quietly(folder, tmp_path, command):
    given = {
        "show": [folder],
        "solve": [folder, "--out", tmp_path / "solved"],
        "export": [folder, "--out", tmp_path / "all.csv"],
    }
    reading, writing = os.pipe()
    os.close(reading)
    process = opsearch(command, *given.get(command, []), stdout=writing)
    os.close(writing)
    _, said = process.communicate(timeout=120)
    assert (process.returncode, said) == (141, b"")


@pytest.mark.parametrize("command", [["show", "nowhere"], ["bogus"], ["run", "--bogus"]])
def test_errors_that_nobody_reads_end_quietly(command):
    reading, writing = os.pipe()
    os.close(reading)
    process = opsearch(*command, stdout=writing, stderr=writing)
    os.close(writing)
    assert process.wait(timeout=60) == 141


def test_a_run_whose_reader_leaves_keeps_what_it_measured(tmp_path):
    """`opsearch run ... 2>&1 | head -1`."""
    out = tmp_path / "run"
    given = ["--space=tokens", "--samples=2", "--heldout=2", f"--out={out}"]
    process = opsearch("run", *given, stderr=subprocess.STDOUT)
    while not measured(out):
        assert process.poll() is None
        time.sleep(0.05)
    process.stdout.close()
    assert process.wait(timeout=120) == 141
    assert measured(out)
    assert not (out / "policy_config.json").exists()


def measured(out):
    """Return the number of stored measurements."""
    if not (out / "measurements.db").exists():
        return 0
    with closing(sqlite3.connect(f"file:{out}/measurements.db?mode=ro", uri=True)) as store:
        try:
            return store.execute("select count(*) from measurement").fetchone()[0]
        except sqlite3.OperationalError:  # the table is not there yet
            return 0


@pytest.fixture
def hang_up():
    """Let SIGHUP end child processes; under nohup it is ignored, which they inherit."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.usefixtures("ctrl_c", "hang_up")
@pytest.mark.parametrize("sent", SIGNALS)
def test_a_signal_ends_a_run_with_a_sentence_and_keeps_what_it_measured(tmp_path, sent):
    out = tmp_path / "run"
    given = ["--space=dop", "--objective=joint", "--samples=32", "--heldout=0"]
    process = opsearch("run", *given, f"--out={out}")
    while not measured(out):
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(sent)
    printed, said = process.communicate(timeout=60)
    assert (process.returncode, printed) == (128 + sent, b"")
    *_, last = said.decode().splitlines()
    assert last.startswith(SIGNALS[sent])
    assert "Traceback" not in said.decode()
    assert measured(out) > 0


@pytest.mark.usefixtures("ctrl_c")
def test_ctrl_c_while_modules_are_imported_is_no_traceback():
    """The command line waits in its import until the signal comes."""
    with subprocess.Popen(
        [sys.executable, "-c", IMPORTING], stdin=PIPE, stdout=PIPE, stderr=PIPE
    ) as process:
        assert process.stdout.readline() == b"begins\n"
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert said.strip() == b"interrupted"


@pytest.mark.usefixtures("ctrl_c")
def test_ctrl_c_promises_to_resume_only_what_measures():
    for words, resumed in ((["list"], False), (["compare", "run"], True)):
        done = subprocess.run(
            [sys.executable, "-c", INTERRUPTING, *words], capture_output=True, timeout=60
        )
        assert done.returncode == 130
        assert done.stderr.splitlines()[-1].startswith(b"interrupted")
        assert (b"again to resume" in done.stderr) == resumed


@pytest.mark.parametrize(("code", "given"), [("3", 3), ("1", 1), ("'no licence found'", 1)])
def test_a_library_that_leaves_keeps_its_code_and_its_words(code, given):
    done = subprocess.run(
        [sys.executable, "-c", LEAVING, code, "show", "run"], capture_output=True, timeout=60
    )
    assert done.returncode == given
    assert (b"no licence found" in done.stderr) == ("licence" in code)


def test_a_signal_that_the_process_ignores_stays_ignored(folder):
    """As under nohup."""
    ignored = "import signal, os, sys; signal.signal(signal.SIGHUP, signal.SIG_IGN); "
    line = f"{ignored}os.execv(sys.executable, [sys.executable, *sys.argv[1:]])"
    with subprocess.Popen(
        [sys.executable, "-c", line, "-c", WAITING, str(folder)], stdin=PIPE, stdout=PIPE
    ) as process:
        assert process.stdout.readline() == b"begins\n"
        process.send_signal(signal.SIGHUP)
        process.stdin.close()
        assert process.wait(timeout=60) == 0


IMPORTING = """
import sys
import time

class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == "opsearch.commands.cli":
            print("begins", flush=True)
            time.sleep(60)

sys.meta_path.insert(0, Finder())
from opsearch.__main__ import main
main()
"""
INTERRUPTING = """
import os
import signal
from opsearch import registry
from opsearch.commands import cli
from opsearch.runs import config
def interrupt(*_, **__):
    os.kill(os.getpid(), signal.SIGINT)
registry.names = registry.registered = config.RunConfig.load = interrupt
cli.main()
"""
LEAVING = """
import sys
from opsearch.commands import cli
from opsearch.policy.policy import Policy
code = eval(sys.argv.pop(1))
Policy.from_pretrained = lambda path: sys.exit(code)
cli.main()
"""
WAITING = """
import sys
from opsearch.commands import cli
from opsearch.policy.policy import Policy

read = Policy.from_pretrained

def waiting(path):
    print("begins", flush=True)
    sys.stdin.read()
    return read(path)

Policy.from_pretrained = waiting
sys.argv = ["opsearch", "show", sys.argv[1]]
cli.main()
"""


def test_a_full_disk_is_no_defect(folder, monkeypatch, capsys):
    def fail(path):
        raise OSError(errno.ENOSPC, "No space left on device", "there/all.csv")

    monkeypatch.setattr(Policy, "from_pretrained", fail)
    assert call(["show", str(folder)]) == 1
    said = capsys.readouterr().err
    assert "there/all.csv" in said
    assert "defect" not in said
