"""The GPU suites start on a machine that has torch and transformers, and little else."""

import subprocess
import sys

import pytest

ABSENT = ("ortools", "optuna", "pydantic", "typer")
SUITES = ("gpu", "gpu_engine", "gpu_latency", "gpu_rankers")


@pytest.mark.parametrize("suite", SUITES)
def test_a_suite_imports_without_solvers_and_pydantic(suite):
    code = f"""
import importlib, sys
sys.modules.update(dict.fromkeys({ABSENT}))
importlib.import_module("benchmarks.{suite}")
"""
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
