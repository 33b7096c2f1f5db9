"""Served policies under random arrival, chunk sizes, block sizes and preemption."""

import random
from fractions import Fraction

import pytest

pytest.importorskip("vllm")

from vllm import SamplingParams

from opsearch import Policy, RankerSpec, builders
from opsearch.serving.key_parts import key_parts
from opsearch.serving.served_policy import ServedPolicy
from tests.support.served import EMBEDDED, embedded_prompts, engine_of, greedy, worst_gap

LAYERS = 12
DIVPRUNE, CLS = RankerSpec("divprune"), RankerSpec("cls")
PERCENT = [
    (100, 100, 100), (60, 100, 80), (50, 70, 90), (90, 50, 30), (40, 40, 100), (25, 80, 0),
    (10, 60, 50), (0, 50, 20), (30, 30, 30), (0, 25, 0), (0, 10, 0), (0, 0, 0),
]  # fmt: skip
POLICIES = {
    "stays": builders.dop(LAYERS, 5, 8, Fraction(1, 2), DIVPRUNE, kv="stays"),
    "leaves": builders.dop(LAYERS, 6, 6, Fraction(4, 5), CLS, kv="leaves"),
    "tokens": builders.tokens(LAYERS, Fraction(1, 4), RankerSpec("vispruner")),
    "table": Policy(
        tuple(tuple(Fraction(n, 100) for n in row) for row in PERCENT), rankers=((0, DIVPRUNE),)
    ),
}


@pytest.mark.parametrize("name", POLICIES)
def test_answers_do_not_depend_on_how_requests_are_scheduled(name, tmp_path, monkeypatch):
    """Random arrival, cuts and batches in a cache too small for them; some prompts come twice."""
    draw = random.Random(name)
    policy = POLICIES[name]
    policy.save_pretrained(tmp_path)
    prompts = embedded_prompts(16, draw)
    expected = greedy(policy, prompts, tokens=12)
    groups = len(key_parts(ServedPolicy(policy))) or 1
    engine = engine_of(
        EMBEDDED,
        tmp_path,
        max_num_batched_tokens=draw.choice([37, 50, 75]),
        block_size=32,
        max_num_seqs=9,
        num_gpu_blocks_override=2 + 8 * groups,  # a prompt of the longest kind needs 8 each
    )
    scheduler = engine.engine_core.engine_core.scheduler
    preempt, preempted = scheduler._preempt_request, []
    monkeypatch.setattr(
        scheduler, "_preempt_request", lambda *args, **kw: preempted.append(preempt(*args, **kw))
    )
    found = _answers(engine, [*prompts, *prompts[:8]], draw)
    assert preempted
    for key, output in found.items():
        assert worst_gap(output, expected[key % len(prompts)]) < 2e-4
    assert scheduler.kv_cache_manager.usage == 0, "blocks of finished requests are kept"


def _answers(engine, prompts, draw):
    """The answer to each prompt; a few arrive before each step."""
    waiting, found = dict(enumerate(prompts)), {}
    params = SamplingParams(temperature=0, max_tokens=12, min_tokens=12, logprobs=1)
    while waiting or engine.has_unfinished_requests():
        for key in list(waiting)[: draw.choice([0, 1, 4, 8])]:
            engine.add_request(str(key), waiting.pop(key).for_vllm(), params)
        for output in engine.step():
            if output.finished:
                found[int(output.request_id)] = output.outputs[0]
    assert len(found) == len(prompts)
    return found


def test_blocks_of_keys_that_leave_are_free(tmp_path):
    """Half of the layers keep the keys of no visual token: they hold blocks for text alone."""
    builders.dop(LAYERS, 6, 6, 1, None, kv="leaves").save_pretrained(tmp_path)
    engine = engine_of(EMBEDDED, tmp_path, block_size=32)
    prompt = next(p for p in embedded_prompts(8, random.Random(0)) if len(p.images) == 1)
    engine.add_request("0", prompt.for_vllm(), SamplingParams(temperature=0, max_tokens=4))
    (output,) = engine.step()
    rows = len(output.prompt_token_ids)
    managers = engine.engine_core.engine_core.scheduler.kv_cache_manager.coordinator
    held = [sum(map(len, m.req_to_blocks.values())) for m in managers.single_type_managers]
    assert held == [-(-(rows + 1) // 32), -(-(rows + 1 - 100) // 32)]
