"""A latency table is fitted on layers of random weights that run as a pruned model's layers do."""

import copy

import pytest
import torch

from opsearch.costs.latency import Latency
from opsearch.costs.shape import Shape
from opsearch.models.spec import ModelSpec
from opsearch.timing.latency_table import fit_latency, machine_of
from opsearch.timing.one_layer import OneLayer
from tests.support import families

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
