"""The whole prefill against torch's FlopCounterMode, on stock and on pruned models."""

from dataclasses import replace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from opsearch import RankerSpec, builders
from opsearch.costs.base import SampleSize
from opsearch.costs.prefill import Prefill
from opsearch.costs.shape import Shape
from opsearch.models.images import image_flops
from opsearch.policy.builders import identity
from opsearch.problem.budget import total_cost
from opsearch.rankers import DECODER_RANKERS
from tests.costs.towers import CASES, LAYERS
from tests.support import tiny
from tests.support.families import EACH, FAMILIES, built
from tests.support.families.prompt import prompts
from tests.support.flop_counter import CPU_KERNEL

LAYOUTS = {"one image": [[3, 4]], "two images": [[2, 3, 5]], "three": [[2, 1, 1, 4]]}


def counted(model, inputs):
    """Return the FLOPs of one prefill that ends in one row of logits.

    Older transformers compute rotary angles as a matrix product, which is not part of a cost.
    """
    counter = FlopCounterMode(custom_mapping=CPU_KERNEL, display=False)
    with torch.no_grad(), counter:
        model(**inputs, logits_to_keep=1)
    parts = counter.get_flop_counts().items()
    angles = [sum(ops.values()) for name, ops in parts if name.endswith("rotary_emb")]
    return counter.get_total_flops() - sum(angles)


def sample_size(model, inputs):
    ids = inputs["input_ids"]
    n_visual = int((ids == tiny.IMAGE).sum())
    return SampleSize(n_visual, ids.shape[1] - n_visual, image_flops(model.config, inputs))


def predicted(model, inputs, policy):
    cost = Prefill(Shape.from_config(model.config))
    return total_cost(cost, policy, [sample_size(model, inputs)])


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", EACH)
def test_a_stock_model_of_a_supported_family(name, layout):
    model = built(name, LAYERS, "eager")
    for seed in range(len(FAMILIES[name].SIZES)):
        inputs = prompts(FAMILIES[name], LAYOUTS[layout], seed)
        assert counted(model, inputs) == predicted(model, inputs, identity(LAYERS))


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("name", EACH)
def test_a_pruned_model(name, attention):
    model = built(name, LAYERS, attention)
    inputs = prompts(FAMILIES[name], LAYOUTS["two images"], 1)
    policy = builders.stages(LAYERS, {0: "3/4", 1: "1/2", 2: "1/4"}, RankerSpec("random"))
    with policy.apply(model):
        found = counted(model, inputs)
    assert found == predicted(model, inputs, policy)
    assert found < predicted(model, inputs, identity(LAYERS))


@pytest.mark.parametrize("ranker", DECODER_RANKERS)
@pytest.mark.parametrize("name", EACH)
def test_a_model_that_ranks_inside_its_decoder(name, ranker):
    model = built(name, LAYERS, "sdpa")
    inputs = prompts(FAMILIES[name], LAYOUTS["two images"], 1)
    stages = builders.stages(LAYERS, {0: 1, 1: "1/2", 2: "1/4"})
    policy = replace(stages, rankers=tuple((layer, RankerSpec(ranker)) for layer in (1, 2)))
    with policy.apply(model):
        found = counted(model, inputs)
    assert found == predicted(model, inputs, policy)


@pytest.mark.parametrize("name", EACH)
def test_a_prompt_without_images(name):
    model = built(name, LAYERS, "eager")
    inputs = prompts(FAMILIES[name], [[7]])
    assert image_flops(model.config, inputs) == 0
    assert counted(model, inputs) == predicted(model, inputs, identity(LAYERS))


@pytest.mark.parametrize("images", [0, 1], ids=["one image", "several"])
@pytest.mark.parametrize("name", sorted(CASES))
def test_a_stock_model_with_another_tower(name, images):
    make, cases = CASES[name]
    with torch.inference_mode(False):
        model = make()
    tokens, pixels = cases[images]
    ids = [8, 9]
    for number in tokens:
        ids += [*[tiny.IMAGE] * number, 10]
    row = torch.tensor([ids])
    inputs = {"input_ids": row, "attention_mask": torch.ones_like(row), **pixels}
    assert counted(model, inputs) == predicted(model, inputs, identity(LAYERS))
