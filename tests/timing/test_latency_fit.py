"""A latency table is fitted on layers of random weights that run as a pruned model's layers do."""

import copy
from dataclasses import replace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from opsearch.costs.base import SampleSize, stock_cost
from opsearch.costs.latency import Latency
from opsearch.costs.shape import Shape
from opsearch.models.encoding import Sample
from opsearch.models.images import image_flops
from opsearch.models.spec import ModelSpec
from opsearch.timing.before_decoder import BeforeDecoder
from opsearch.timing.latency_table import fit_latency, machine_of, typical_pictures
from opsearch.timing.one_layer import OneLayer
from tests.support import families
from tests.support.families.prompt import prompts
from tests.support.flop_counter import CPU_KERNEL

SPEC = ModelSpec()


@pytest.fixture(params=families.FAMILIES)
def config(request):
    return families.built(request.param, 3).config


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_the_layer_of_every_family_processes_the_given_rows(config, attention):
    """The shapes of the inputs of the projections are the rows of the counts."""
    one = OneLayer(config, 40, 6, ModelSpec(attention=attention))
    seen = {}
    attn, mlp = one.middle.self_attn, one.middle.mlp
    for name, module in (("q", attn.q_proj), ("kv", attn.k_proj), ("mlp", mlp)):
        module.register_forward_pre_hook(lambda m, args, name=name: seen.update({name: args[0]}))
    for counts in ((10, 30, 5), (0, 0, 0), (40, 40, 0), (20, 0, 40)):
        with torch.inference_mode():
            one.layer(*counts)()
        rows = {name: states.numel() // states.shape[-1] for name, states in seen.items()}
        assert rows == dict(zip(("q", "kv", "mlp"), (n + 6 for n in counts), strict=True))


def test_a_whole_prefill_has_the_counts_that_it_names(config):
    one = OneLayer(config, 40, 6, SPEC)
    run, layers = one.prefill()
    assert layers == [(4, 4, 4), (0, 4, 0), (0, 0, 0)]
    seen = []
    for layer in one.decoder.layers:
        layer.mlp.register_forward_pre_hook(lambda m, args: seen.append(args[0].shape[-2]))
    with torch.inference_mode():
        run()
    assert seen == [10, 6, 6]


def test_a_table_covers_its_samples_and_more_rows_take_longer(config):
    samples = [(40, 6), (400, 9), (90, 5)]
    ticks = []
    table = fit_latency(config, samples, SPEC, lambda *tick: ticks.append(tick))
    assert (table.rows[0], table.rows[-1]) == (5, 409)
    assert table.covers(5, 409)
    assert not table.covers(4, 409)
    assert not table.covers(5, 410)
    assert table.place == machine_of(config, SPEC)
    assert [done for done, _ in ticks] == list(range(1, len(ticks) + 1))
    assert {total for _, total in ticks} == {12}
    latency = Latency(Shape.from_config(config), table)
    assert latency.stock(400, 9) > latency.stock(40, 6) > 0


@pytest.mark.parametrize("name", families.EACH)
def test_images_are_timed_from_the_vision_tower_to_the_decoder(name):
    """All matrix products are those of vision tower and projector."""
    config = families.built(name, 3).config
    inputs = prompts(families.FAMILIES[name], [[2, 3, 5]], 0)
    part = BeforeDecoder(config, ModelSpec(attention="eager")).part(sampled(config, inputs))
    counter = FlopCounterMode(custom_mapping=CPU_KERNEL, display=False)
    with torch.inference_mode(), counter:
        part()
    parts = counter.get_flop_counts().items()
    angles = sum(sum(ops.values()) for name, ops in parts if name.endswith("rotary_emb"))
    assert counter.get_total_flops() - angles == image_flops(config, inputs)


def sampled(config, inputs):
    length = inputs["input_ids"].shape[1]
    flops = image_flops(config, inputs)
    return Sample(None, "", inputs, length - 5, 5, image_flops=flops)


def test_a_table_holds_the_times_of_small_usual_and_large_images():
    config = families.built("qwen2_5_vl", 3).config
    samples = [
        sampled(config, prompts(families.FAMILIES["qwen2_5_vl"], [[2] * (1 + images)], seed))
        for images in (3, 0, 1, 2)
        for seed in (0, 1)
    ]
    table = fit_latency(config, [(40, 6)], SPEC, pictures=typical_pictures(samples))
    every = sorted({sample.image_flops for sample in samples if sample.image_flops})
    assert len(every) > 3
    assert table.image_flops == (every[0], every[len(every) // 2], every[-1])
    assert min(table.images) > 0
    latency, shape = Latency(Shape.from_config(config), table), SampleSize(40, 6, every[-1])
    assert stock_cost(latency, [shape]) == latency.stock(40, 6) + max(table.images)


def test_pictures_of_unknown_flops_are_not_timed():
    config = families.built("llava", 3).config
    sample = sampled(config, prompts(families.FAMILIES["llava"], [[2, 3, 5]], 0))
    assert typical_pictures([sample, replace(sample, image_flops=None)]) == []
    assert typical_pictures([replace(sample, image_flops=0)]) == []


def test_when_time_is_up_a_table_has_fewer_points_and_still_covers_all(monkeypatch):
    config, ticks = families.built("llava", 3).config, []
    monkeypatch.setattr("opsearch.timing.latency_table._SECONDS", 0.0)
    table = fit_latency(config, [(400, 9)], SPEC, lambda *tick: ticks.append(tick))
    assert (table.rows, table.coarse) == ((9, 57, 209, 409), (9, 169, 409))
    assert ticks == [(1, 12)]
    monkeypatch.setattr("opsearch.timing.latency_table._SECONDS", 60.0)
    monkeypatch.setattr("opsearch.timing.latency_table._ROUNDS", 1)
    table = fit_latency(config, [(400, 9)], SPEC)
    assert (len(table.rows), len(table.coarse)) == (7, 4)


def test_the_machine_tells_models_and_types_apart():
    llava, qwen = (families.built(name, 3).config for name in ("llava", "qwen2_5_vl"))
    machines = {
        machine_of(llava, SPEC),
        machine_of(qwen, SPEC),
        machine_of(llava, ModelSpec(dtype="bfloat16")),
        machine_of(llava, ModelSpec(attention="eager")),
    }
    assert len(machines) == 4
    assert machine_of(families.built("llava", 5).config, SPEC) in machines
    activation = copy.deepcopy(llava)
    activation.text_config.hidden_act = "gelu"
    assert machine_of(activation, SPEC) not in machines
