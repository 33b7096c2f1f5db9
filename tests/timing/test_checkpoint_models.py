"""Random models of the checkpoints have their exact decoders, and prompts of any length."""

from dataclasses import replace

import pytest
import torch

from opsearch.costs.shape import CHECKPOINTS, Shape
from opsearch.models.families import family_for
from opsearch.policy import builders
from opsearch.policy.ranker import RankerSpec
from opsearch.timing.policy_latency import kv_stored
from opsearch.timing.random_models import random_model, random_workload

TINY = Shape(3, 64, 96, 4, 2, 16, 128, kv_bytes_per_element=4)
UNIFORM = RankerSpec("uniform")
FAMILIES = sorted({each.family for each in CHECKPOINTS.values()})


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_the_decoder_is_that_of_the_checkpoint(name):
    shape = CHECKPOINTS[name].shape
    model = random_model(CHECKPOINTS[name].family, shape, torch.bfloat16, "meta")
    assert Shape.from_config(model.config) == shape
    layer = model.get_submodule(family_for(CHECKPOINTS[name].family).decoder).layers[-1]
    assert layer.self_attn.k_proj.weight.shape == (shape.kv_width, shape.hidden)
    assert layer.mlp.down_proj.weight.shape == (shape.hidden, shape.intermediate)
    assert model.lm_head.weight.shape == (shape.vocab, shape.hidden)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_prompt_has_the_tokens_asked_for(family):
    model = random_model(family, TINY, torch.float32, "cpu")
    work = random_workload(model, 2, 12, 7)
    found = family_for(family).visual_positions(model.config, work.inputs["input_ids"])
    assert found.sum(1).tolist() == [12, 12]
    assert found.shape == (2, 19)
    assert not found[:, -1].any()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("kv", ["leaves", "stays"])
def test_stored_bytes_are_those_of_the_cost_model(family, kv):
    model = random_model(family, TINY, torch.float32, "cpu")
    work = random_workload(model, 2, 12, 7)
    stored = kv_stored(model, work, builders.dop(3, 2, 1, "1/2", UNIFORM, kv=kv))
    assert (stored.policy, stored.original) == (stored.policy_cost, stored.original_cost)
    assert stored.policy < stored.original


def test_features_are_what_the_decoder_reads():
    model = random_model("llava_next", replace(TINY, layers=1), torch.float32, "cpu")
    work = random_workload(model, 1, 12, 7)
    other = {**work.inputs, "pixel_values": work.inputs["pixel_values"] + 1}
    with torch.inference_mode():
        first, second = model(**work.inputs).logits, model(**other).logits
    assert not torch.allclose(first[:, -1], second[:, -1])
