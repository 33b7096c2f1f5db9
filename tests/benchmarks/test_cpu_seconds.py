"""CPU seconds are split into the driver's, the workers' and those of Ray's own processes."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks.scaling import cpu_seconds

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs Linux")


def spend(seconds):
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass


def test_what_this_process_spends_is_the_drivers():
    before = cpu_seconds()
    spend(0.2)
    assert cpu_seconds()["driver"] - before["driver"] >= 0.15


def test_what_its_children_spend_is_not():
    code = "import time\nwhile time.process_time() < 0.3: pass\nprint(flush=True)\ninput()"
    before = cpu_seconds()["other"]
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        child.stdout.readline()
        assert cpu_seconds()["other"] - before >= 0.25
        child.communicate(b"\n")
