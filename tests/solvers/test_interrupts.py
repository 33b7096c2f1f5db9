"""Ctrl-C and other signals end integer programs, whatever native code they are in."""

import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from subprocess import PIPE

import pytest
from ortools.sat.python.cp_model import CpSolver

from opsearch.problem.solution import Status, reraise_interrupt
from opsearch.problem.spaces.operations import layers_space
from opsearch.solvers.ortools import CpSat
from tests.solvers.integer.test_layer_programs import HALVES, many_pairs, problem

LONG = many_pairs(layers_space(24, HALVES, tied=True))  # minutes to the proof


def send(number, seconds):
    """Send this process a signal after some seconds of processor time."""
    started = time.process_time()

    def work():
        while time.process_time() < started + seconds:
            time.sleep(0.05)
        os.kill(os.getpid(), number)

    threading.Thread(target=work).start()


@pytest.mark.usefixtures("ctrl_c")
def test_ctrl_c_ends_all_programs_and_keeps_the_incumbent():
    send(signal.SIGINT, 2)
    solution = CpSat().solve(LONG)
    assert solution.status is Status.FEASIBLE
    assert LONG.within(solution.index)
    assert solution.stopped
    assert "stopped" in solution.note
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)


@pytest.mark.usefixtures("ctrl_c")
@pytest.mark.parametrize("program", [1, 2, 3])
def test_ctrl_c_before_a_search_begins_is_not_lost(monkeypatch, program):
    """The third program is the long one."""
    solve, seen = CpSolver.solve, []

    def interrupted(solver, model):
        seen.append(model)
        if len(seen) == program:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.3)  # so that the first request to stop comes before the search begins
        return solve(solver, model)

    monkeypatch.setattr(CpSolver, "solve", interrupted)
    solution = CpSat().solve(LONG)
    assert solution.stopped
    assert "stopped" in solution.note
    assert len(seen) == program


@pytest.mark.usefixtures("ctrl_c")
def test_what_another_signal_raises_ends_the_search_too():
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    send(signal.SIGTERM, 1)
    try:
        with pytest.raises(KeyboardInterrupt):
            CpSat().solve(LONG)
    finally:
        signal.signal(signal.SIGTERM, before)


def test_one_of_many_solves_that_was_stopped_ends_them_all():
    solution = CpSat().solve(problem(0, 0))
    assert reraise_interrupt(solution) is solution
    with pytest.raises(KeyboardInterrupt):
        reraise_interrupt(replace(solution, stopped=True))


MINUTES = """
from opsearch.commands.cli import INTERRUPTED, end
from opsearch.solvers.scipy import Highs
from tests.solvers.test_interrupts import LONG

print("begins", flush=True)
try:
    Highs().solve(LONG)
except KeyboardInterrupt:
    end(INTERRUPTED)
"""


@pytest.mark.usefixtures("ctrl_c")
@pytest.mark.parametrize("seconds", [0.5, 2])
def test_ctrl_c_ends_a_process_whose_solver_cannot_be_stopped(seconds):
    with subprocess.Popen(
        [sys.executable, "-c", MINUTES], stdout=PIPE, stderr=PIPE, text=True
    ) as process:
        try:
            assert process.stdout.readline() == "begins\n"
            time.sleep(seconds)
            process.send_signal(signal.SIGINT)
            _, said = process.communicate(timeout=60)
        finally:
            process.kill()
    assert (process.returncode, said) == (130, "")
