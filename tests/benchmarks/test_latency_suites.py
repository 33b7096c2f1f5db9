"""The suites for a lent device run from end to end with torch, transformers and numpy alone."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks.__main__ import SUITES
from opsearch.costs.shape import CHECKPOINTS
from opsearch.rankers import DECODER_RANKERS, RANKERS

ROOT = Path(__file__).parent.parent.parent
WITHOUT = """
import runpy, sys

# yaml and filelock are needed by transformers itself.
for name in "ortools optuna pydantic typer pandas matplotlib rich scipy PIL jinja2".split():
    sys.modules[name] = None  # importing it says that there is no such module
runpy.run_module("benchmarks", run_name="__main__", alter_sys=True)
"""


def run(*arguments):
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "-c", WITHOUT, *arguments],
        cwd=ROOT, capture_output=True, text=True, env=environment,
    )  # fmt: skip


def rows(suite):
    done = run("--suite", suite, "--tiny")
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_gpu_latency():
    machine, *measured = rows("gpu-latency")
    assert machine["matmul_flops_per_s"] > 0
    assert machine["versions"].keys() == {"torch", "transformers", "numpy"}
    assert {row["checkpoint"] for row in measured} == set(CHECKPOINTS)
    assert {(row["batch"], row.get("mode")) for row in measured} == {
        (1, "eager"), (1, "graph"), (8, "eager")
    }  # fmt: skip
    for row in measured:
        if row["mode"] == "graph" and not torch.cuda.is_available():
            assert "CUDA" in row["skipped"]
            continue
        assert row["flop_ratio"] <= row["budget"]
        assert row["kv_bytes"]["policy"] == row["kv_bytes"]["policy_cost"]
        assert row["kv_bytes"]["original"] == row["kv_bytes"]["original_cost"]
        assert row["roofline_ms"] > 0
        assert row["ratio"].keys() == {"prefill", "first_token", "decode"}


def test_cpu_latency():
    machine, *measured, identity, hooks = rows("cpu-latency")
    assert machine["parameters"] > 0
    assert len({(row["rule"], row["budget"]) for row in measured}) == len(measured) > 0
    assert (identity["rule"], hooks["rule"]) == ("identity", "hooks")
    for row in (identity, hooks):
        low, high = row["first_token_ratio_interval"]
        assert (row["pairs"], row["flop_ratio"]) == (15, 1.0)
        assert 0 < low <= high


def test_family_latency():
    _machine, *measured = rows("family-latency")
    found = {(row["family"], row["rule"], row["budget"]) for row in measured}
    assert {family for family, *_ in found} == {"qwen3_vl", "smolvlm", "gemma3"}
    assert len(found) == len(measured)
    assert all(row["flop_ratio"] <= row["budget"] for row in measured)


def test_latency_table():
    fitted, *measured, together = rows("latency-table")
    assert fitted["fitted_in_s"] > 0
    assert fitted["table"]["rows"][0] == 65
    assert fitted["table"]["rows"][-1] == 245
    assert len(measured) == together["policies"] == 5
    for row in measured:
        assert row["error"] == pytest.approx(row["predicted_ms"] / row["real_ms"] - 1, abs=1e-3)


def test_gpu_engine():
    machine, *measured = rows("gpu-engine")
    assert machine["matmul_flops_per_s"] > 0
    parts = [row for row in measured if "flops_per_s" in row]
    found = [row for row in measured if "optimum" in row]
    assert [(row["checkpoint"], row["space"]) for row in found] == [
        ("llava-1.5-7b", "dop"),
        ("qwen2.5-vl-7b", "depth"),
    ]
    assert [row["samples"] for row in found] == [parts[-1]["samples"]] * 2
    assert all(row["chunks"] == 1 < row["forwards_per_sample"] < 97 for row in parts)
    assert all(row["kl_nats"] > 0 for row in found)


@pytest.mark.parametrize("suite", ["gpu-latency", "gpu-engine", "gpu-rankers"])
def test_a_gpu_suite_ends_when_its_time_is_up(suite):
    first, *_, last = SUITES[suite](True, 0.0)
    assert "versions" in first
    assert last["stopped"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="the suite would start to measure")
@pytest.mark.parametrize("suite", ["gpu-latency", "gpu-engine", "gpu-rankers"])
def test_a_gpu_suite_needs_a_gpu(suite):
    done = run("--suite", suite)
    assert done.returncode == 1
    assert "CUDA" in done.stderr
    assert "--tiny" in done.stderr


def test_rankers():
    """With the graphs' rows, which on a CPU are the choices alone."""
    machine, *measured = rows("gpu-rankers")
    assert machine["versions"].keys() == {"torch", "transformers", "numpy"}
    assert [row["visual"] for row in measured if "prefill_ms" in row] == [36, 180]
    for visual in (36, 180):
        timed = [row for row in measured if row["visual"] == visual and "ranker" in row]
        assert [row["ranker"] for row in timed] == [*RANKERS, *DECODER_RANKERS]
        assert all(row["share_of_prefill"] > 0 for row in timed)
        kept = [row["kept"] for row in timed if row["ranker"] in RANKERS]
        assert kept == [2 * visual // 9] * len(RANKERS)
    choices = [(row["visual"], row["choice"]) for row in measured if "choice" in row]
    names = ("divprune", "cdpruner")
    assert choices == [(visual, name) for visual in (36, 180) for name in names]
