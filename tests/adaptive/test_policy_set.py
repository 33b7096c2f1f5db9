"""A set runs each sample of a batch by its own policy, and comes back from its files."""

import json
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
import torch

from opsearch import Policy, PolicySet, RankerSpec, builders
from opsearch.adaptive.linear import MOST, LinearSelector
from opsearch.adaptive.load import load_method
from opsearch.errors import PolicyError, UnknownNameError
from opsearch.models.pruned.applied import Applied
from opsearch.policy.images import ImageSetting
from tests.models.policies import LAYERS
from tests.support.families import FAMILIES, QUICK, built
from tests.support.families.prompt import prompts
from tests.support.messages import naming, refuses

pytestmark = pytest.mark.usefixtures("no_grad")

UNIFORM = RankerSpec("uniform")
POLICIES = {
    "half": builders.tokens(LAYERS, "1/2", UNIFORM),
    "random counts": builders.dop(LAYERS, 2, 1, "3/4", RankerSpec("random", (("seed", 3),))),
    "inside": builders.fastv(LAYERS, 2, "1/4"),
    "whole": builders.identity(LAYERS),
}
WIDTH = 32


class Given:
    """Chooses by a list, in turn."""

    needs = frozenset()

    def __init__(self, *indices):
        self.indices = indices

    def choose(self, prompt):
        return [self.indices[row % len(self.indices)] for row in range(len(prompt.n_visual))]


def a_selector(policies=2, width=WIDTH, seed=0, reads="question"):
    draw = np.random.default_rng(seed)
    weights = draw.standard_normal((policies, width)).astype(np.float32)
    return LinearSelector(weights, draw.standard_normal(policies).astype(np.float32), reads)


def a_set(*names, **given):
    names = names or ("half", "whole")
    return PolicySet(tuple(POLICIES[name] for name in names), a_selector(len(names)), **given)


def batch(name, pad="left"):
    return prompts(FAMILIES[name], [[2, 3], [4, 2], [3, 3], [2, 2]], seed=1, pad=pad)


@pytest.mark.parametrize("name", QUICK)
@pytest.mark.parametrize("pad", ["left", "right"])
def test_each_sample_has_the_logits_of_its_own_policy(name, pad):
    model, inputs = built(name, LAYERS), batch(name, pad)
    policies, chosen = tuple(POLICIES.values()), (2, 0, 3, 1)
    wanted = []
    for policy in policies:
        with policy.apply(model):
            wanted.append(model(**inputs, logits_to_keep=1).logits)
    with Applied(model, policies, None, Given(*chosen)):
        found = model(**inputs, logits_to_keep=1).logits
    if pad == "right":  # whose last rows are padding but for the longest
        rows = [row for row, mask in enumerate(inputs["attention_mask"]) if mask[-1]]
    else:
        rows = range(len(chosen))
    for row in rows:
        torch.testing.assert_close(found[row], wanted[chosen[row]][row], atol=2e-6, rtol=1e-5)
        others = [each[row] for index, each in enumerate(wanted) if index != chosen[row]]
        assert min((found[row] - other).abs().max() for other in others) > 1e-3


@pytest.mark.parametrize("beams", [1, 3])
def test_each_sample_has_the_answer_of_its_own_policy(beams):
    model, inputs = built("llava", LAYERS), batch("llava")
    policies, chosen = tuple(POLICIES.values()), (2, 0, 3, 1)
    given = {"max_new_tokens": 5, "do_sample": False, "num_beams": beams}
    wanted = []
    for policy in policies:
        with policy.apply(model):
            wanted.append(model.generate(**inputs, **given))
    with Applied(model, policies, None, Given(*np.repeat(chosen, beams))):
        found = model.generate(**inputs, **given)
    for row, index in enumerate(chosen):
        assert found[row].tolist() == wanted[index][row].tolist()


def test_the_question_decides_alone():
    """The same question has the same policy, whatever stands in the batch beside it."""
    model, inputs = built("llava", LAYERS), batch("llava")
    policies = a_set("half", "random counts", "whole")
    chosen = []

    class Watched(LinearSelector):
        def choose(self, prompt):
            chosen.append(super().choose(prompt))
            return chosen[-1]

    selector = policies.selector
    policies = replace(policies, selector=Watched(selector.weights, selector.bias))
    with policies.apply(model):
        model(**inputs, logits_to_keep=1)
        for row in range(4):
            real = inputs["attention_mask"][row].bool()
            alone = {k: inputs[k][row : row + 1, real] for k in ("input_ids", "attention_mask")}
            image = inputs["pixel_values"][row : row + 1]
            model(**alone, pixel_values=image, logits_to_keep=1)
    together, *one_by_one = chosen
    assert together == [index for (index,) in one_by_one]
    assert len(set(together)) > 1, "the questions are told apart"


def test_a_set_of_policies_that_prune_nothing_is_the_original():
    model, inputs = built("llava", LAYERS), batch("llava")
    stock = model(**inputs).logits
    with a_set("whole", "whole").apply(model):
        assert torch.equal(model(**inputs).logits, stock)


def test_install_prunes_until_it_is_removed():
    model, inputs = built("llava", LAYERS), batch("llava")
    stock = model(**inputs, logits_to_keep=1).logits
    with a_set("half", "random counts").apply(model):
        pruned = model(**inputs, logits_to_keep=1).logits
    handle = a_set("half", "random counts").install(model)
    assert torch.equal(model(**inputs, logits_to_keep=1).logits, pruned)
    handle.remove()
    assert torch.equal(model(**inputs, logits_to_keep=1).logits, stock)
    assert not torch.equal(pruned, stock)


def test_text_that_an_assistant_appends_would_change_the_choice():
    model, inputs = built("llava", LAYERS), prompts(FAMILIES["llava"], [[2, 3]], seed=1)
    with (
        a_set("half", "random counts").apply(model),
        refuses(PolicyError, "prompt_lookup_num_tokens", "the selector"),
    ):
        model.generate(**inputs, prompt_lookup_num_tokens=2, max_new_tokens=3)


def test_different_rankers_at_one_layer_of_the_decoder_are_refused():
    model = built("llava", LAYERS)
    fastv = builders.fastv(LAYERS, 2, "1/4")
    other = replace(fastv, rankers=((2, RankerSpec("sparsevlm")),))
    policies = PolicySet((fastv, other), a_selector())
    with refuses(PolicyError, "fastv", "sparsevlm", "one ranker"):
        policies.apply(model).__enter__()


def test_a_caller_that_knows_the_kind_names_it():
    policies = a_set("half", "random counts", kinds={"ocr": 1, "count": 0})
    assert policies.of_kind("ocr") is policies.policies[1]
    assert policies.of_kind("count") is policies.policies[0]
    with refuses(UnknownNameError, "'chart'", "ocr", "count"):
        policies.of_kind("chart")
    with refuses(PolicyError, "'ocr'", "policy 2", "set of 2"):
        a_set("half", "random counts", kinds={"ocr": 2})


@pytest.mark.parametrize(
    ("policies", "parts"),
    [
        ((), ["set of 0", f"1 to {MOST}"]),
        ((POLICIES["half"],) * (MOST + 1), [f"set of {MOST + 1}", f"1 to {MOST}"]),
        ((POLICIES["half"],), ["among 2", "has 1"]),
        ((POLICIES["half"], builders.identity(LAYERS + 1)), ["layers", LAYERS + 1]),
        ((POLICIES["half"], replace(POLICIES["half"], model_type="llava")), ["families", "llava"]),
        (
            (
                POLICIES["half"],
                replace(POLICIES["half"], images=ImageSetting(Fraction(1, 2), (("size", 10),))),
            ),
            ["image settings", "1/2"],
        ),
    ],
    ids=["none", "many", "selector", "layers", "families", "images"],
)
def test_policies_that_do_not_belong_together_are_refused(policies, parts):
    with refuses(PolicyError, *parts):
        PolicySet(policies, a_selector())


def test_a_selector_of_another_width_is_refused():
    model, inputs = built("llava", LAYERS), batch("llava")
    policies = PolicySet((POLICIES["half"], POLICIES["whole"]), a_selector(width=WIDTH + 1))
    with policies.apply(model), refuses(PolicyError, WIDTH + 1, WIDTH, "searched on"):
        model(**inputs)


@pytest.mark.parametrize(
    ("weights", "bias", "parts"),
    [
        (np.ones(3), np.ones(3), ["[K, F]", "[3]"]),
        (np.ones((2, 3)), np.ones(3), ["[2, 3]", "[3]"]),
        (np.full((2, 3), np.nan), np.ones(2), ["finite"]),
    ],
)
def test_selectors_that_make_no_sense_are_refused(weights, bias, parts):
    with refuses(PolicyError, *parts):
        LinearSelector(weights.astype(np.float32), bias.astype(np.float32))


def test_a_set_comes_back_from_its_files(tmp_path):
    facts = {"provenance": {"budget": "30%"}, "kinds": {"ocr": 2, "count": 0}}
    saved = a_set("half", "random counts", "inside", **facts)
    assert saved.save_pretrained(tmp_path) == tmp_path / "policy_set.json"
    read = PolicySet.from_pretrained(tmp_path)
    assert read.policies == saved.policies
    assert read.provenance == saved.provenance
    assert read.kinds == saved.kinds
    assert np.array_equal(read.selector.weights, saved.selector.weights)
    assert np.array_equal(read.selector.bias, saved.selector.bias)
    assert read.selector.reads == saved.selector.reads
    assert read.digest() == saved.digest()
    for other in (a_selector(3, seed=1), a_selector(3, reads="image")):
        assert replace(saved, selector=other).digest() != saved.digest()
    assert replace(saved, policies=saved.policies[::-1]).digest() != saved.digest()


def test_a_folder_with_a_policy_and_a_set_is_that_of_the_policy(tmp_path):
    saved = a_set("half", "random counts")
    file = saved.save_pretrained(tmp_path)
    assert load_method(tmp_path).digest() == saved.digest()
    with refuses(PolicyError, tmp_path, "set of policies"):
        Policy.from_pretrained(tmp_path)
    POLICIES["half"].save_pretrained(tmp_path)
    assert load_method(tmp_path) == Policy.from_pretrained(tmp_path) == POLICIES["half"]
    assert load_method(file).digest() == saved.digest()


def test_weights_in_columns_come_back_as_they_are(tmp_path):
    weights = np.asfortranarray(a_selector(3).weights)
    given = PolicySet(
        tuple(POLICIES[name] for name in ("half", "random counts", "whole")),
        LinearSelector(weights, np.zeros(3, np.float32)),
    )
    given.save_pretrained(tmp_path)
    assert np.array_equal(PolicySet.from_pretrained(tmp_path).selector.weights, weights)


def changed(**facts):
    def change(folder):
        file = folder / "policy_set.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | facts))

    return change


def without(name):
    return lambda folder: (folder / name).unlink()


def holding(name, content):
    return lambda folder: (folder / name).write_bytes(content)


def other_tensors(folder):
    from safetensors.numpy import save_file

    save_file({"weights": np.ones((2, 3))}, folder / "selector.safetensors")


@pytest.mark.parametrize(
    ("damage", "parts"),
    [
        (without("policy_set.json"), ["policy_set.json", "does not exist"]),
        (without("selector.safetensors"), ["selector.safetensors", "does not exist"]),
        (holding("policy_set.json", b"{"), ["policy_set.json", "damaged"]),
        (holding("selector.safetensors", b"1234567890"), ["selector.safetensors", "damaged"]),
        (other_tensors, ["selector.safetensors", "weights [K, F]"]),
        (changed(format_version=2), ["format 2", "update"]),
        (changed(weights=[1]), ["weights", "policy_set.json"]),
        (changed(policies=[]), ["policies", "policy_set.json"]),
        (changed(kinds={"ocr": "first"}), ["kinds.ocr", "policy_set.json"]),
        (changed(kinds={"ocr": 2}), ["'ocr'", "set of 2"]),
        (changed(selector=3), ["selector", "policy_set.json"]),
        (changed(policies=[{"counts": 1}]), ["policy_type", "policy_set.json"]),
    ],
    ids=[
        "no set",
        "no selector",
        "text",
        "bytes",
        "tensors",
        "newer",
        "extra",
        "empty",
        "kind",
        "kind without a policy",
        "number",
        "policy",
    ],
)
def test_files_that_are_no_set_get_a_sentence(tmp_path, damage, parts):
    a_set().save_pretrained(tmp_path)
    damage(tmp_path)
    with pytest.raises(PolicyError, match=naming(*parts)):
        PolicySet.from_pretrained(tmp_path)


def test_the_representation_fits_on_a_screen():
    shown = repr(a_set("half", "random counts", provenance={"budget": "30%"}))
    assert len(shown.splitlines()) <= 10
    assert "PolicySet(" in shown
