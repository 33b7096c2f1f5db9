"""Threads of the command line sleep while they wait, unless the user decided otherwise."""

import os
import re
import subprocess
import sys

import pytest

from opsearch.models.openmp import wait_settings

NAMES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
# OpenMP prints its settings when torch loads it, so what it prints is in force.
SHOWN = {"OMP_DISPLAY_ENV": "verbose"}


def environment(**chosen):
    """The environment of these tests with only these settings of waiting."""
    return {**{name: text for name, text in os.environ.items() if name not in NAMES}, **chosen}


def python(*arguments, **chosen):
    line = [sys.executable, *arguments]
    return subprocess.run(line, capture_output=True, text=True, env=environment(**chosen))


def settings_in_force(output):
    found = re.findall(r"(OMP_WAIT_POLICY|GOMP_SPINCOUNT) *= *'(\w+)'", output)
    return {name: value.lower() for name, value in found}


@pytest.mark.parametrize(
    ("chosen", "wanted"),
    [
        ({}, {"OMP_WAIT_POLICY": "passive"}),
        pytest.param(
            {"OMP_WAIT_POLICY": "active"}, {"OMP_WAIT_POLICY": "active"}, marks=pytest.mark.slow
        ),
    ],
)
def test_the_command_line_sets_it_before_torch_is_imported(tmp_path, chosen, wanted):
    few = ["--samples=1", "--heldout=0", "--budget=1%", f"--out={tmp_path / 'run'}"]
    done = python("-m", "opsearch", "run", *few, **SHOWN, **chosen)
    assert done.returncode == 1, done.stderr
    assert wanted.items() <= settings_in_force(done.stderr + done.stdout).items()


@pytest.mark.parametrize(
    ("chosen", "wanted"),
    [
        ({}, {"OMP_WAIT_POLICY": "passive"}),
        ({"OMP_WAIT_POLICY": "active"}, {"OMP_WAIT_POLICY": "active"}),
        ({"GOMP_SPINCOUNT": "7"}, {"GOMP_SPINCOUNT": "7"}),
        ({"OMP_WAIT_POLICY": "active", "GOMP_SPINCOUNT": "7"},) * 2,
    ],
)
def test_what_the_user_set_is_kept(monkeypatch, chosen, wanted):
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
    for name, value in chosen.items():
        monkeypatch.setenv(name, value)
    assert wait_settings() == wanted


def test_importing_opsearch_leaves_the_environment_of_the_process_alone():
    check = (
        "import os, opsearch; opsearch.RunConfig, opsearch.Workers;"
        f"assert not {set(NAMES)} & os.environ.keys()"
    )
    done = python("-c", check)
    assert done.returncode == 0, done.stderr
