"""One generation is timed, its parts lie inside each other, and the model stays as it is."""

import time
from dataclasses import replace

import pytest
import torch

from opsearch.costs.shape import Shape
from opsearch.errors import ModelError
from opsearch.models.pruned.ranking import plan_inputs
from opsearch.policy import builders
from opsearch.policy.ranker import RankerSpec
from opsearch.timing.clock import Clock, Spread
from opsearch.timing.generation import GenerationPair, Pass, Workload, timed, timed_pairs
from opsearch.timing.policy_latency import latency_row
from tests.support import tiny
from tests.support.messages import naming

CLS = RankerSpec("cls")
PASS = Pass(4.0, tower=1.0, ranking=0.0, prefill=2.0, from_images=3.5, decode=None, peak_bytes=None)


@pytest.fixture(scope="module")
def model():
    return tiny.llava()


@pytest.fixture(scope="module")
def work():
    inputs = tiny.prompts([[3, 4], [3, 4]])
    return Workload(inputs, 2, tiny.PATCHES, 7)


def test_parts_lie_inside_the_whole(model, work):
    with builders.tokens(5, "1/3", CLS).apply(model), torch.inference_mode():
        found = timed(model, work.inputs, 3)
    assert 0 < found.ranking < found.prefill < found.first_token
    assert 0 < found.tower < found.first_token - found.prefill
    assert found.decode > 0
    assert found.peak_bytes is None


def test_ranking_counts_as_such(model, work, monkeypatch):
    """The policy ranks in a forward around the decoder's own, behind all hooks on its inputs."""

    def slow(*args):
        end = time.process_time() + 0.2  # a sleep takes no processor time
        while time.process_time() < end:
            pass
        return plan_inputs(*args)

    monkeypatch.setattr("opsearch.models.pruned.apply.plan_inputs", slow)
    with torch.inference_mode():
        stock = timed(model, work.inputs, 1)
        with builders.tokens(5, "1/3", CLS).apply(model):
            found = timed(model, work.inputs, 1)
    assert stock.ranking < 0.2 <= found.ranking < found.prefill


def test_without_further_tokens_nothing_is_decoded(model, work):
    assert timed(model, work.inputs, 1).decode is None


def test_no_hook_stays(model, work):
    before = {name: len(m._forward_hooks) + len(m._forward_pre_hooks)
              for name, m in model.named_modules()}  # fmt: skip
    list(timed_pairs(model, work, builders.tokens(5, "1/3", CLS), 2, repeats=1))
    after = {name: len(m._forward_hooks) + len(m._forward_pre_hooks)
             for name, m in model.named_modules()}  # fmt: skip
    assert before == after


def test_sides_alternate_and_swap(model, work, monkeypatch):
    policy = builders.tokens(5, "1/3", CLS)
    seen = []

    def note(model, inputs, new_tokens):
        seen.append("policy" if "forward" in vars(model.model.language_model.layers[0]) else "-")
        return PASS

    monkeypatch.setattr("opsearch.timing.generation.timed", note)
    pairs = list(timed_pairs(model, work, policy, 2, repeats=2, warmups=1))
    assert seen == ["policy", "-", "-", "policy", "policy", "-"]
    assert len(pairs) == 2


def test_a_row_has_ratios_of_pairs_and_only_what_was_measured():
    slow = replace(PASS, prefill=8.0, first_token=16.0)
    pairs = [
        GenerationPair(PASS, replace(PASS, prefill=1.0)),
        GenerationPair(slow, replace(slow, prefill=4.0)),
    ]
    shape = Shape(5, 32, 48, 4, 2, 8, tiny.VOCAB)
    row = latency_row(shape, builders.identity(5), Workload({}, 1, 9, 7), pairs)
    assert row["ratio"] == {"prefill": [0.5, 0.5, 0.5], "first_token": [1.0, 1.0, 1.0]}
    assert row["original"]["prefill_ms"] == [3500.0, 5000.0, 6500.0]
    assert "decode_ms" not in row["policy"]
    assert "peak_bytes" not in row["policy"]
    assert row["flop_ratio"] == 1.0


def test_spread_is_median_and_quartiles():
    assert Spread.of([5.0, 1.0, 2.0, 3.0, 4.0]) == Spread(2.0, 3.0, 4.0)


def test_other_devices_are_refused():
    with pytest.raises(ModelError, match=naming("'meta'", "--device cpu", "cuda")):
        Clock(torch.device("meta"))
