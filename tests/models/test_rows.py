"""Logits, losses and gradients are the reference's at every token, or refused."""

from fractions import Fraction

import pytest
import torch
from torch.nn.functional import cross_entropy

from opsearch.errors import PolicyError
from opsearch.models.families import family_for
from opsearch.policy import builders
from opsearch.policy.policy import Policy
from opsearch.policy.ranker import RankerSpec
from tests.models.judge import TOLERANCE, reference_logits, samples
from tests.models.policies import (
    INSIDE,
    LAYERS,
    POLICIES,
    RANDOM,
    every_family,
    with_rankers_of,
)
from tests.support import tiny
from tests.support.families import FAMILIES, built
from tests.support.families.prompt import prompts
from tests.support.messages import refuses

LEAVES, STAYS = POLICIES["dop, kv leaves"], POLICIES["dop, kv stays"]
IGNORED = -100


@pytest.fixture(scope="module")
def model():
    return tiny.llava(LAYERS)


def close(found, wanted):
    torch.testing.assert_close(found, wanted, rtol=0, atol=2 * TOLERANCE)


# What a forward returns


@pytest.mark.usefixtures("no_grad")
def test_the_trunk_alone_returns_the_same_rows(model):
    inputs = tiny.prompts([[3, 4], [1, 0, 6]])
    with LEAVES.apply(model):
        close(model.lm_head(model.model(**inputs).last_hidden_state), model(**inputs).logits)


@pytest.mark.usefixtures("no_grad")
def test_rows_by_index_are_those_of_the_whole(model):
    """`logits_to_keep` as a tensor may name rows of visual tokens."""
    inputs, rows = tiny.prompts([[3, 4]]), torch.tensor([4, 11, 15])
    with LEAVES.apply(model):
        close(model(**inputs, logits_to_keep=rows).logits, model(**inputs).logits[:, rows])


@pytest.mark.usefixtures("no_grad")
def test_a_forward_of_some_rows_leaves_the_next_as_it_is(model):
    """The rows that a call wants do not outlast it, even if it fails."""
    inputs = tiny.prompts([[3, 4]])
    with LEAVES.apply(model):
        wanted = model.model(**inputs).last_hidden_state
        model(**inputs, logits_to_keep=1)
        assert torch.equal(model.model(**inputs).last_hidden_state, wanted)
        with refuses(PolicyError, "output_attentions"):
            model(**inputs, logits_to_keep=1, output_attentions=True)
        assert torch.equal(model.model(**inputs).last_hidden_state, wanted)


@pytest.mark.usefixtures("no_grad")
@pytest.mark.parametrize("label", ["dop, kv leaves", "fastv", "two at once"])
def test_the_last_row_costs_less_than_all(model, label):
    """Its prefill skips the operations that only visual tokens' own logits need."""
    calls = []
    last = model.model.language_model.layers[-1].mlp
    handle = last.register_forward_pre_hook(lambda module, args: calls.append(args[0].shape[1]))
    try:
        with POLICIES[label].apply(model):
            model(**tiny.prompts([[3, 4]]))
            model(**tiny.prompts([[3, 4]]), logits_to_keep=1)
    finally:
        handle.remove()
    assert calls[1] == 7
    assert calls[0] == 7 + POLICIES[label].resolve(9)[-1, 2]


@pytest.mark.usefixtures("no_grad")
def test_rows_that_no_ranker_chooses_are_refused(model):
    """Half of the tokens pass the last MLP, which no answer reads, so no ranker is named."""
    counts = [(Fraction(1),) * 3] * (LAYERS - 1) + [(Fraction(1), Fraction(0), Fraction(1, 2))]
    policy, inputs = Policy(tuple(counts)), tiny.prompts([[3, 4]])
    with policy.apply(model):
        with refuses(PolicyError, "ranker", "logits_to_keep=1"):
            model(**inputs)
        kept = model(**inputs, logits_to_keep=4).logits
    (sample,) = samples(model, inputs)
    close(kept[0], reference_logits(model, sample, policy)[-4:])


@pytest.mark.usefixtures("no_grad")
@pytest.mark.parametrize("head", [True, False], ids=["model", "trunk"])
@pytest.mark.parametrize("use_cache", [True, False])
def test_a_tuple_holds_what_the_output_holds(model, head, use_cache):
    called, inputs = model if head else model.model, tiny.prompts([[3, 4]])
    with LEAVES.apply(model):
        wanted = called(**inputs, use_cache=use_cache)
        found = called(**inputs, use_cache=use_cache, return_dict=False)
    assert [type(each) for each in found] == [type(each) for each in wanted.to_tuple()]
    assert torch.equal(found[0], wanted[0])


# Losses and gradients


def labels_of(inputs):
    """Return all tokens as labels, except padding and the first token after it."""
    real = inputs["attention_mask"].bool()
    before = torch.nn.functional.pad(real, (1, 0))[:, :-1]
    return inputs["input_ids"].masked_fill(~(real & before), IGNORED)


def reference_loss(model, inputs, policy, labels):
    """Return the mean cross entropy of all labels by the masked reference."""
    parts, wanted = [], []
    for row, sample in enumerate(samples(model, inputs)):
        parts.append(reference_logits(model, sample, policy)[:-1])
        wanted.append(labels[row][sample.real][1:])
    return cross_entropy(torch.cat(parts), torch.cat(wanted), ignore_index=IGNORED)


@every_family
@pytest.mark.parametrize("pad", ["left", "right"])
def test_the_loss_and_its_gradients_are_the_references(name, pad):
    """Labels of all tokens, those after an image too, which visual tokens predict."""
    model, family = FAMILIES[name].model(LAYERS).train(), FAMILIES[name]
    inputs = prompts(family, [[3, 4], [1, 8]], seed=1, pad=pad)
    labels, given = labels_of(inputs), family.given_positions(inputs)
    for label in ("dop, kv leaves", "dop, kv stays", "two at once"):
        policy = with_rankers_of(family_for(name))[label]
        with policy.apply(model):
            loss = model(**inputs, **given, labels=labels).loss
        found = torch.autograd.grad(loss, model.parameters(), allow_unused=True)
        wanted_loss = reference_loss(model, inputs, policy, labels)
        wanted = torch.autograd.grad(wanted_loss, model.parameters(), allow_unused=True)
        close(loss, wanted_loss)
        for (parameter, _), one, other in zip(model.named_parameters(), found, wanted, strict=True):
            zero = torch.zeros(())
            one, other = (zero if each is None else each for each in (one, other))
            atol = 2e-4 * max(1.0, float(other.abs().max()))
            torch.testing.assert_close(
                one.expand_as(other), other, rtol=0, atol=atol, msg=f"{label} {parameter}"
            )


# Last rows with and without visual tokens, and rows by index, of visual tokens too.
KEPT = {"text": 3, "text and image": 6, "more than all": 99, "by index": torch.arange(4, 20)}


@pytest.mark.usefixtures("no_grad")
@pytest.mark.parametrize("kept", KEPT.values(), ids=KEPT.keys())
@pytest.mark.parametrize("shifted", [False, True])
@pytest.mark.parametrize("pad", ["left", "right"])
def test_the_loss_of_kept_rows_is_the_references(model, pad, shifted, kept):
    """Two images in one sample; the first text token behind an image is predicted by its last."""
    inputs = tiny.prompts([[3, 4], [1, 2, 6], [4, 9]], pad=pad)
    length = inputs["input_ids"].shape[1]
    rows = kept if isinstance(kept, torch.Tensor) else torch.arange(max(0, length - kept), length)
    following = torch.nn.functional.pad(labels_of(inputs), (0, 1), value=IGNORED)[:, 1:]
    predicted = following[:, rows].contiguous()
    if shifted:
        given = {"labels": inputs["input_ids"], "shift_labels": predicted}
    else:  # the model shifts them by itself, so that the last row predicts none
        given = {"labels": torch.nn.functional.pad(predicted, (1, 0), value=7)[:, :-1]}
        predicted[:, -1] = IGNORED
    for label in ("dop, kv leaves", "dop, kv stays", "vtw in the middle", "two at once"):
        policy = POLICIES[label]
        wanted = torch.zeros(*inputs["input_ids"].shape, tiny.VOCAB)
        for row, sample in enumerate(samples(model, inputs)):
            wanted[row][sample.real] = reference_logits(model, sample, policy)
        with policy.apply(model):
            loss = model(**inputs, **given, logits_to_keep=kept).loss
        flat = wanted[:, rows].flatten(0, 1)
        close(loss, cross_entropy(flat, predicted.flatten(), ignore_index=IGNORED))


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_training_drops_attention_in_every_layer(attention):
    """With a dropout of 1 no attention is left, also where queries and keys differ in rows."""
    model, inputs = tiny.llava(LAYERS, attention=attention), tiny.prompts([[3, 4]])
    for layer in model.model.language_model.layers:
        layer.self_attn.attention_dropout = 1.0
    with torch.no_grad():
        with STAYS.apply(model.train()):
            found = model(**inputs).logits
        for layer in model.model.language_model.layers:
            layer.self_attn.o_proj.weight.zero_()
        with STAYS.apply(model.eval()):
            close(found, model(**inputs).logits)


@pytest.mark.parametrize("pad", ["left", "right"])
@pytest.mark.parametrize("shifted", [False, True])
def test_labels_that_padding_would_predict_are_refused(model, pad, shifted):
    inputs = tiny.prompts([[3, 4], [1, 8]], pad=pad)
    labels = inputs["input_ids"].clone()
    given = (
        {"labels": labels, "shift_labels": labels.roll(-1, 1)} if shifted else {"labels": labels}
    )
    with LEAVES.apply(model), refuses(PolicyError, "padding", IGNORED):
        model(**inputs, **given)
    text = {**tiny.prompts([[3], [5]], pad=pad)}
    wanted = model(**text, labels=text["input_ids"]).loss
    with LEAVES.apply(model):
        assert torch.equal(model(**text, labels=text["input_ids"]).loss, wanted)


@pytest.mark.usefixtures("no_grad")
@pytest.mark.parametrize("call", ["kept rows", "kept rows by index", "by position", "forward"])
def test_labels_of_padding_are_refused_however_they_come(model, call):
    """Wrappers such as peft's call `forward` itself, which runs no hooks."""
    inputs = tiny.prompts([[3, 4], [1, 8]], pad="right")
    ids, pixels, mask = (inputs[k] for k in ("input_ids", "pixel_values", "attention_mask"))
    with LEAVES.apply(model), refuses(PolicyError, "padding", IGNORED):
        if call == "kept rows":
            model(**inputs, labels=ids[:, -3:].contiguous(), logits_to_keep=3)
        elif call == "kept rows by index":
            rows = torch.arange(15, 18)
            model(**inputs, labels=ids[:, rows], logits_to_keep=rows)
        elif call == "by position":
            model(ids, pixels, mask, labels=ids)
        else:
            model.forward(**inputs, labels=ids)


@pytest.mark.usefixtures("no_grad")
def test_labels_are_ignored_by_the_callers_value(model):
    inputs = tiny.prompts([[3, 4], [1, 8]])
    labels = labels_of(inputs)
    other = labels.masked_fill(labels == IGNORED, -1)
    with LEAVES.apply(model):
        wanted = model(**inputs, labels=labels).loss
        assert torch.equal(model(**inputs, labels=other, ignore_index=-1).loss, wanted)
        with refuses(PolicyError, "padding", -1):
            model(**inputs, labels=inputs["input_ids"], ignore_index=-1)


# Masks and positions


@pytest.mark.usefixtures("no_grad")
@every_family
@pytest.mark.parametrize("pad", ["left", "right"])
def test_padding_changes_no_token(name, pad):
    model, family = built(name, LAYERS), FAMILIES[name]
    inputs = prompts(family, [[3, 4], [1, 8]], seed=1, pad=pad)
    policy, given = with_rankers_of(family_for(name))["two at once"], family.given_positions(inputs)
    with policy.apply(model):
        padded = model(**inputs, **given).logits
    for row, sample in enumerate(samples(model, inputs)):
        close(padded[row][sample.real], reference_logits(model, sample, policy))


@pytest.mark.usefixtures("no_grad")
def test_without_a_mask_padding_is_text(model):
    inputs = tiny.prompts([[3, 4], [1, 8]])
    bare = {key: value for key, value in inputs.items() if key != "attention_mask"}
    for policy in (LEAVES, INSIDE["fastv"]):
        with policy.apply(model):
            found = model(**bare).logits
        full = {**inputs, "attention_mask": torch.ones_like(inputs["input_ids"])}
        for logits, sample in zip(found, samples(model, full), strict=True):
            close(logits, reference_logits(model, sample, policy))


@pytest.mark.usefixtures("no_grad")
def test_positions_of_the_caller_are_kept(model):
    inputs = tiny.prompts([[3, 4]])
    positions = torch.arange(16)[None] * 2 + 5
    (sample,) = samples(model, inputs)
    sample.positions = positions[0]
    bare = {key: value for key, value in inputs.items() if key != "attention_mask"}
    for given in (inputs, bare):
        with LEAVES.apply(model):
            found = model(**given, position_ids=positions).logits
        close(found[0], reference_logits(model, sample, LEAVES))


PACKED = {
    "positions": {"position_ids": torch.tensor([[*range(13), *range(3)]])},
    "positions, no cache": {
        "position_ids": torch.tensor([[*range(13), *range(20, 23)]]),
        "use_cache": False,
    },
    "lengths": {"cu_seq_lens_q": torch.tensor([0, 13, 16], dtype=torch.int32)},
    "indices": {"seq_idx": torch.tensor([[0] * 13 + [1] * 3], dtype=torch.int32)},
}


@pytest.mark.usefixtures("no_grad")
@pytest.mark.parametrize("given", PACKED.values(), ids=PACKED.keys())
def test_prompts_packed_into_one_row_are_refused(model, given):
    inputs = tiny.prompts([[3, 4]])
    del inputs["attention_mask"]
    with LEAVES.apply(model), refuses(PolicyError, "packs", "attention_mask"):
        model(**inputs, **given)


@pytest.mark.usefixtures("no_grad")
def test_packed_positions_of_qwen_are_refused():
    """Text positions come before those of time, height and width."""
    model, family = built("qwen2_5_vl", LAYERS), FAMILIES["qwen2_5_vl"]
    inputs = prompts(family, [[3, 4]])
    del inputs["attention_mask"]
    length = inputs["input_ids"].shape[1]
    positions = torch.arange(length).expand(4, 1, length).clone()
    policy = builders.tokens(LAYERS, "1/2", RANDOM)
    with policy.apply(model):
        model(**inputs, position_ids=positions)
        positions[0, 0, -2:] -= length - 2
        with refuses(PolicyError, "packs"):
            model(**inputs, position_ids=positions)


@pytest.mark.usefixtures("no_grad")
@pytest.mark.parametrize("ranker", ["random", "fastv"])
def test_masked_visual_tokens_are_refused(model, ranker):
    """They would be counted and ranked, although no token reads them."""
    inputs = tiny.prompts([[3, 4]])
    inputs["attention_mask"][0, 5:7] = 0
    policy = INSIDE["fastv"] if ranker == "fastv" else builders.tokens(LAYERS, "1/2", RANDOM)
    with policy.apply(model), refuses(PolicyError, 2, "attention_mask", "processor"):
        model(**inputs)


@pytest.mark.usefixtures("no_grad")
def test_masked_text_is_left_out(model):
    inputs = tiny.prompts([[3, 4]])
    inputs["attention_mask"][0, 1] = inputs["attention_mask"][0, 13] = 0
    (sample,) = samples(model, inputs)
    sample.positions = torch.arange(16)[sample.real]
    for policy in (LEAVES, builders.tokens(LAYERS, "1/3", RankerSpec("cls"))):
        with policy.apply(model):
            found = model(**inputs).logits[0]
        close(found[sample.real], reference_logits(model, sample, policy))
