"""Every kind of policy gives the reference's logits for all paddings, batches, attentions."""

import pytest
import torch

from tests.models.judge import TOLERANCE, deviation, samples
from tests.models.policies import LAYERS, MIXED, POLICIES
from tests.support import tiny
from tests.support.flash import FLASH

pytestmark = pytest.mark.usefixtures("no_grad", "flash_attn")

EQUAL = [[3, 11], [1, 0, 4], [23], [0, 14]]


@pytest.fixture(scope="module")
def model(request, flash_attn):
    return tiny.llava(LAYERS, **request.param)


def batch(pad, layout=None):
    if pad == "none":
        return tiny.prompts(layout or EQUAL)
    return tiny.prompts(layout or MIXED, pad=pad)


def cumulative(inputs):
    """Return positions as generate() derives them from the mask."""
    return (inputs["attention_mask"].cumsum(1) - 1).clamp(min=0)


ATTENTIONS = ["sdpa", "eager", FLASH]
SDPA = [{"attention": "sdpa"}]
with_all_attentions = pytest.mark.parametrize(
    "model", [{"attention": name} for name in ATTENTIONS], ids=ATTENTIONS, indirect=True
)


@pytest.mark.parametrize("pad", ["left", "right", "none"])
@with_all_attentions
def test_every_policy_gives_the_logits_of_the_reference(model, pad):
    inputs = batch(pad)
    rows = samples(model, inputs)
    found = {
        name: deviation(model, inputs, policy, rows, position_ids=cumulative(inputs))
        for name, policy in POLICIES.items()
    }
    assert {name: worst for name, worst in found.items() if worst > TOLERANCE} == {}


@pytest.mark.parametrize("layout", [[[3, 4]], [[1, 0, 6]], [[0, 5]], [[2, 3, 0, 4]]], ids=str)
@with_all_attentions
def test_single_prompts_need_no_attention_mask(model, layout):
    inputs = batch("none", layout)
    rows = samples(model, inputs)
    for name, policy in POLICIES.items():
        with policy.apply(model):
            masked = model(**inputs).logits
            bare = model(input_ids=inputs["input_ids"], pixel_values=inputs["pixel_values"]).logits
        assert torch.equal(masked, bare), name
        assert deviation(model, inputs, policy, rows) <= TOLERANCE, name


SOME = ["dop, kv leaves", "dop, kv stays", "rows without any key", "random counts 0"]


@pytest.mark.parametrize("kv_heads", [1, 4])
@pytest.mark.parametrize("attention", ATTENTIONS)
def test_one_and_all_key_value_heads(attention, kv_heads):
    model = tiny.llava(LAYERS, attention=attention, kv_heads=kv_heads)
    inputs = batch("left")
    for name in SOME:
        worst = deviation(model, inputs, POLICIES[name], position_ids=cumulative(inputs))
        assert worst <= TOLERANCE, name


@pytest.mark.parametrize("feature_layer", [-1, -2, 1, 3])
def test_the_cls_ranker_looks_at_the_layer_that_the_projector_reads(feature_layer):
    model = tiny.llava(LAYERS, feature_layer=feature_layer)
    inputs = batch("right")
    assert deviation(model, inputs, POLICIES["stages"]) <= TOLERANCE


@pytest.mark.parametrize("model", SDPA, ids=["sdpa"], indirect=True)
def test_positions_are_those_of_the_call(model):
    """Without position_ids a stock model counts left padding too; a policy must not change that."""
    inputs = batch("left")
    rows = samples(model, inputs)
    for row in rows:
        row.positions = row.real.nonzero().flatten()
    for name in SOME:
        assert deviation(model, inputs, POLICIES[name], rows) <= TOLERANCE, name


@pytest.mark.parametrize("model", SDPA, ids=["sdpa"], indirect=True)
def test_a_sample_does_not_depend_on_its_batch(model):
    """Samples of a batch equal the same prompts alone."""
    inputs = batch("left")
    for name in ("tokens, random", "tokens, uniform", "stages"):
        with POLICIES[name].apply(model):
            together = model(**inputs, position_ids=cumulative(inputs)).logits[0, -4:]
            alone = model(
                input_ids=inputs["input_ids"][:1, -16:], pixel_values=inputs["pixel_values"][:1]
            ).logits[0, -4:]
        torch.testing.assert_close(together, alone, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("model", SDPA, ids=["sdpa"], indirect=True)
def test_logits_to_keep_counts_original_positions(model):
    inputs = batch("right")
    with POLICIES["dop, kv leaves"].apply(model):
        everything = model(**inputs).logits
        last = model(**inputs, logits_to_keep=6).logits
    torch.testing.assert_close(last, everything[:, -6:], rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("model", SDPA, ids=["sdpa"], indirect=True)
def test_pruning_changes_what_the_model_says(model):
    """Policies without an effect would make the comparisons above vacuous."""
    inputs = batch("left")
    rows = samples(model, inputs)
    stock = model(**inputs, position_ids=cumulative(inputs)).logits
    silent = []
    for name, policy in POLICIES.items():
        with policy.apply(model):
            pruned = model(**inputs, position_ids=cumulative(inputs)).logits
        text = rows[0].real.clone()
        text[rows[0].real] = ~rows[0].visual
        if (pruned[0] - stock[0])[text].abs().max() < 0.01:
            silent.append(name)
    assert silent == ["vtw at the end", "shortv, last layer", "tokens, more than there are"]
