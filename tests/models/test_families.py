"""Every family gives the reference's logits, for all its images and positions."""

from itertools import product

import pytest
import torch

from opsearch.errors import ModelError, PolicyError
from opsearch.models.families import FAMILIES as SUPPORTED
from opsearch.models.families import family_for
from opsearch.policy import builders
from tests.models.judge import TOLERANCE, deviation, last_text_rows, samples
from tests.models.policies import CLS, LAYERS, MIXED, RANDOM, every_family, with_rankers_of
from tests.models.test_apply import traces
from tests.support.families import FAMILIES, NEEDED, QUICK, built, is_causal
from tests.support.families.prompt import prompts
from tests.support.flash import FLASH
from tests.support.messages import refuses
from tests.support.reference import is_visual

pytestmark = pytest.mark.usefixtures("no_grad", "flash_attn")


@pytest.mark.parametrize("name", SUPPORTED)
def test_every_family_is_tested(name):
    if name in NEEDED:
        pytest.importorskip(NEEDED[name], reason=f"its vision tower comes from {NEEDED[name]}")
    assert name in FAMILIES


def settings():
    """Yield families x paddings x attentions; pairs beyond one attention each are slow."""
    quick = {"left": ["sdpa", FLASH], "right": ["eager"], "none": ["sdpa"]}
    for name, pad, attention in product(FAMILIES, quick, ("sdpa", "eager", FLASH)):
        if attention == FLASH and not is_causal(name):
            continue
        is_quick = name in QUICK and attention in quick[pad]
        yield pytest.param(name, pad, attention, marks=() if is_quick else (pytest.mark.slow,))


@pytest.mark.parametrize(("name", "pad", "attention"), list(settings()))
def test_every_policy_gives_the_logits_of_the_reference(name, pad, attention):
    check(name, pad, attention, with_rankers_of(family_for(name)))


# One policy of each kind.
SOME = ["dop, kv stays", "fastv, of which some are updated", "random counts 0", "stages"]


@pytest.mark.parametrize("name", sorted({*FAMILIES} - {*QUICK}))
def test_a_policy_of_each_kind_gives_the_logits_of_the_reference(name):
    policies = with_rankers_of(family_for(name))
    check(name, "left", "sdpa", {label: policies[label] for label in SOME})


def check(name, pad, attention, policies):
    """Compare policies with the reference on a batch of several layouts."""
    model, family = built(name, LAYERS, attention), FAMILIES[name]
    inputs = prompts(family, MIXED, seed=1, pad=pad)
    rows, given = samples(model, inputs), family.given_positions(inputs)
    # The operations of last rows are those of answers.
    keep = (0, last_text_rows(model, inputs)) if (pad, attention) == ("left", "sdpa") else (0,)
    found = {
        label: deviation(model, inputs, policy, rows, keep, **given)
        for label, policy in policies.items()
    }
    assert {label: worst for label, worst in found.items() if worst > TOLERANCE} == {}


@every_family
def test_every_policy_that_prunes_changes_what_the_model_says(name):
    model, family = built(name, LAYERS), FAMILIES[name]
    inputs = prompts(family, [[1, 2, 4]])
    (row,) = samples(model, inputs)
    stock, silent = model(**inputs).logits, []
    for label, policy in with_rankers_of(family_for(name)).items():
        with policy.apply(model):
            pruned = model(**inputs).logits
        if (pruned - stock)[0, ~row.visual].abs().max() < 0.01:
            silent.append(label)
    assert silent == ["vtw at the end", "shortv, last layer", "tokens, more than there are"]


@every_family
def test_samples_of_a_batch_have_different_numbers_of_visual_tokens(name):
    """Images of one size would make the comparison weaker."""
    inputs = prompts(FAMILIES[name], MIXED, seed=1)
    numbers = {row.n_visual for row in samples(built(name, LAYERS), inputs)}
    assert len(numbers) == (3 if len(FAMILIES[name].SIZES) == 1 else 4)


@every_family
def test_the_identity_changes_no_bit(name):
    model, inputs = built(name, LAYERS), prompts(FAMILIES[name], MIXED)
    stock = model(**inputs).logits
    with builders.identity(LAYERS).apply(model):
        assert torch.equal(model(**inputs).logits, stock)


@every_family
def test_the_model_is_stock_again_after_the_block(name):
    model, inputs = built(name, LAYERS), prompts(FAMILIES[name], MIXED)
    stock, before = model(**inputs).logits, traces(model)
    policy = with_rankers_of(family_for(name))["stages"]
    with policy.apply(model):
        assert not torch.equal(model(**inputs).logits, stock)
    assert traces(model) == before
    assert torch.equal(model(**inputs).logits, stock)


# Families whose text is rounded little.
CLOSE = ("internvl", "llava", "llava_next", "llava_onevision", "qwen2_5_vl")


@every_family
def test_bfloat16_stays_close(name):
    model = FAMILIES[name].model(LAYERS)
    inputs = prompts(FAMILIES[name], MIXED)
    policy = builders.dop(LAYERS, 3, 2, "1/2", RANDOM, kv="stays")
    rounded = {k: v.bfloat16() if v.is_floating_point() else v for k, v in inputs.items()}
    given = FAMILIES[name].given_positions(inputs)

    def logits(inputs):
        stock = model(**inputs, **given).logits
        with policy.apply(model):
            return torch.stack([model(**inputs, **given).logits, stock])

    exact = logits(inputs)
    model.to(torch.bfloat16)
    found = logits(rounded)
    assert found.dtype == torch.bfloat16
    real, visual = inputs["attention_mask"].bool(), is_visual(model, inputs["input_ids"])
    # Some tokens are rounded to logits further away, in the original too.
    for rows, strict in ((real & ~visual, name in CLOSE), (real & visual, False)):
        pruned, stock = (found - exact)[:, rows].abs().amax((1, 2))
        # Where the original is rounded most, policies vary most.
        factor = 2 if name in ("gemma3", "aya_vision", "cohere2_vision") else 1.5
        assert pruned < (0.15 if strict else max(0.15, factor * stock))


@every_family
def test_text_alone_runs_as_in_the_stock_model(name):
    model, inputs = built(name, LAYERS), prompts(FAMILIES[name], [[5], [9]])
    stock = model(**inputs).logits
    with with_rankers_of(family_for(name))["stages"].apply(model):
        assert torch.equal(model(**inputs).logits, stock)


# Requirements of families


def test_positions_of_pictures_cannot_be_left_out():
    model = built("qwen2_5_vl", LAYERS)
    inputs = prompts(FAMILIES["qwen2_5_vl"], [[3, 4]])
    del inputs["mm_token_type_ids"]
    policy = builders.tokens(LAYERS, "1/2", RANDOM)
    named = "mm_token_type_ids", "'qwen2_5_vl'", "processor", "position_ids"
    with policy.apply(model):
        with refuses(PolicyError, *named):
            model(**inputs)
        with refuses(PolicyError, *named):
            model.generate(**inputs, max_new_tokens=2, do_sample=False)


def positions_of_caller(inputs):
    """Return the positions that the processor's inputs give, [3, B, S]."""
    positions = torch.zeros(3, *inputs["input_ids"].shape, dtype=torch.long)
    for row, found in enumerate(FAMILIES["qwen2_5_vl"].positions(inputs)):
        positions[:, row, inputs["attention_mask"][row].bool()] = found
    return positions


@pytest.mark.parametrize("pad", ["left", "right"])
@pytest.mark.parametrize("kind", ["time, height, width", "text before them", "one for all"])
def test_positions_of_the_caller_replace_types_of_tokens(kind, pad):
    model = built("qwen2_5_vl", LAYERS)
    inputs = prompts(FAMILIES["qwen2_5_vl"], [[3, 4], [1, 8]], seed=1, pad=pad)
    rows, given = samples(model, inputs), positions_of_caller(inputs)
    del inputs["mm_token_type_ids"]
    if kind == "one for all":
        given = (inputs["attention_mask"].cumsum(1) - 1).clamp(min=0)
        for row in rows:
            row.positions = torch.arange(len(row.ids))
    elif kind == "text before them":
        text = (inputs["attention_mask"].cumsum(1) - 1).clamp(min=0)
        given = torch.cat([text[None], given])
    for label in ("dop, kv leaves", "two at once"):
        policy = with_rankers_of(family_for("qwen2_5_vl"))[label]
        assert deviation(model, inputs, policy, rows, position_ids=given) <= TOLERANCE


def test_generation_takes_positions_of_the_caller():
    model = FAMILIES["qwen2_5_vl"].model(LAYERS)
    model.generation_config.eos_token_id = 10**6
    inputs = prompts(FAMILIES["qwen2_5_vl"], [[3, 4], [1, 8]], seed=1)
    bare = {key: value for key, value in inputs.items() if key != "mm_token_type_ids"}
    options = {"max_new_tokens": 4, "do_sample": False, "output_logits": True}
    with with_rankers_of(family_for("qwen2_5_vl"))["two at once"].apply(model):
        wanted = model.generate(**inputs, **options, return_dict_in_generate=True)
        found = model.generate(
            **bare,
            **options,
            return_dict_in_generate=True,
            position_ids=positions_of_caller(inputs),
        )
    assert torch.equal(found.sequences, wanted.sequences)
    torch.testing.assert_close(found.logits, wanted.logits, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("name", ["qwen2_5_vl", "llava_onevision"])
def test_families_without_cls_refuse_to_rank_by_it(name):
    policy = builders.tokens(LAYERS, "1/2", CLS)
    refused = refuses(ModelError, f"'{name}'", "'cls_attention'", "--ranker")
    with refused, policy.apply(built(name, LAYERS)):
        pass
