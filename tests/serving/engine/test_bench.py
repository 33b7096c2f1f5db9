"""`opsearch bench --engine vllm` on the embedded model."""

import json
import os

import pytest

from opsearch import RankerSpec, builders
from opsearch.commands.cli import call
from opsearch.costs.flops import Flops
from opsearch.costs.kv import KVBytes
from opsearch.costs.shape import Shape
from opsearch.data.embedded import embedded
from opsearch.models.encoding import encode
from opsearch.models.loading import load_config, load_processor
from opsearch.problem.budget import total_cost
from tests.serving.engine.policies import LAYERS

OPTIONS = ["--dtype=float32", "--max-model-len=256", "--block-size=32", "--enforce-eager"]
POLICY = builders.tokens(LAYERS, "1/4", RankerSpec("divprune"))
REQUESTS = 6


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """What the command prints as JSON, and its other output."""
    folder = tmp_path_factory.mktemp("bench")
    POLICY.save_pretrained(folder / "policy")
    load = [f"--requests={REQUESTS}", "--repeats=2", "--new-tokens=3"]
    command = ["bench", str(folder / "policy"), "--engine=vllm", *load, f"--out={folder / 'rows'}"]
    assert call([*command, "--", *OPTIONS]) == 0
    return json.loads((folder / "rows").read_text())


def test_costs_are_those_of_the_prompts(measured):
    samples = encode(
        embedded("calibration", REQUESTS, 0), load_processor("demo"), load_config("demo")
    )
    shape, sizes = Shape.from_config(load_config("demo")), [each.size for each in samples]
    for name, cost in (("decoder_flops", Flops(shape)), ("kv_bytes", KVBytes(shape))):
        stock = sum(cost.stock(size.n_visual, size.n_other) for size in sizes)
        assert measured[name] == pytest.approx(total_cost(cost, POLICY, sizes) / stock, abs=1e-5)
    assert measured["decoder_flops"] < measured["prefill_flops"] < 1
    assert (measured["visual"], measured["requests"]) == (100, REQUESTS)


def test_both_engines_are_timed_alone_and_under_load(measured):
    for part in ("first_token", "per_token"):
        for name in ("stock_ms", "policy_ms", "ratio"):
            low, median, high = measured[part][name]
            assert 0 < low <= median <= high
    rates = measured["requests_per_s"]
    assert rates["ratio"] == pytest.approx(rates["policy"] / rates["stock"], rel=1e-2)
    assert [each["share"] for each in measured["arriving"]] == [0.5, 0.8]
    for each in measured["arriving"]:
        assert each["per_s"] == pytest.approx(each["share"] * rates["stock"], rel=1e-2)
        for name in ("stock_ms", "policy_ms"):
            median, longest = each[name]
            assert 0 < median <= longest


def test_shorter_prompts_take_fewer_blocks(measured):
    """100 visual tokens and some text take four blocks of 32, a quarter of them two."""
    used = measured["kv_in_use"]
    assert 0 < used["policy"] < used["stock"]
    assert used["ratio"] == pytest.approx(0.5, abs=0.05)


def test_settings_of_the_process_are_left_as_they_were(measured):
    assert "VLLM_USE_V2_MODEL_RUNNER" not in os.environ
