"""Methods that rank inside the decoder as policies: published defaults, costs and files."""

from fractions import Fraction

import numpy as np
import pytest

from opsearch.costs.flops import flops
from opsearch.costs.shape import CHECKPOINTS
from opsearch.errors import PolicyError
from opsearch.policy import builders
from opsearch.policy.counts import KV, MLP, Q
from opsearch.policy.policy import Policy
from tests.costs.published import fitprune_macs, recipe_tokens
from tests.support.messages import naming

LLAVA = CHECKPOINTS["llava-1.5-7b"].shape
F, H = Fraction(1), Fraction(1, 2)


def layers_and_names(policy):
    """The layers before which rankers act, and their names."""
    layers = [layer for layer, _ in policy.rankers]
    return layers, {str(spec) for _, spec in policy.rankers}


def macs(policy, n_visual=576):
    return int(flops(policy.resolve(n_visual), n_visual, 0, LLAVA, "macs"))


def test_fastv_as_published():
    policy = builders.fastv(32)
    assert policy.counts == builders.stages(32, {0: 1, 2: H}).counts
    assert layers_and_names(policy) == ([2], {"fastv"})
    assert round(macs(policy) / 1e12, 3) == 2.007
    assert policy.name == "fastv(k=2, share=1/2)"


def test_pyramiddrop_as_published():
    policy = builders.pyramiddrop()
    assert policy.counts == builders.stages(32, {0: 1, 8: H, 16: "1/4", 24: "1/8"}).counts
    assert layers_and_names(policy) == ([8, 16, 24], {"pyramiddrop"})
    assert round(macs(policy) / 1e12, 3) == 1.777


def test_pyramiddrop_of_other_decoders():
    assert layers_and_names(builders.pyramiddrop(12))[0] == [3, 6, 9]
    policy = builders.pyramiddrop(12, "1/3", first=1)
    assert layers_and_names(policy)[0] == [1, 4, 8]
    assert policy.counts[-1] == (Fraction(1, 27),) * 3


@pytest.mark.parametrize(
    ("budget", "mean"), [(192, 206.75), (128, 144.125), (96, 113.9375), (64, 81.8125)]
)
def test_sparsevlm_as_published(budget, mean):
    """Behind layers 2, 6 and 15; more tokens than the name of the budget are left on average."""
    policy = builders.sparsevlm(budget=budget)
    counts = policy.resolve(576)
    assert layers_and_names(policy) == ([3, 7, 16], {"sparsevlm(heads=0.4375)"})
    assert tuple(counts[[3, 7, 16], KV].tolist()) == builders.SPARSEVLM[budget]
    assert (counts[[2, 6, 15], KV] > counts[[3, 7, 16], KV]).all()
    assert counts.mean() == mean > budget


def test_sparsevlm_of_another_share_falls_in_proportion():
    policy = builders.sparsevlm(12, share=H)
    assert layers_and_names(policy)[0] == [1, 3, 6]
    assert policy.resolve(600)[[0, 1, 3, 6], Q].tolist() == [600, 300, 200, 118]


@pytest.mark.parametrize("layers", [2, 3, 5])
def test_in_few_layers_stages_fall_together(layers):
    for policy in (builders.pyramiddrop(layers), builders.sparsevlm(layers)):
        counts = policy.resolve(576)[:, KV]
        assert (np.diff(counts) <= 0).all()
        assert counts[-1] < 576
        assert policy.live(576).shape == (layers, 3)


def test_the_recipe_of_fitprune():
    policy = builders.fitprune(builders.FITPRUNE_60)
    counts = policy.resolve(576)
    assert sum(builders.FITPRUNE_60.values()) == 449
    assert counts[-1].tolist() == [127] * 3
    assert round(counts[:, Q].mean(), 1) == 230.9
    assert round(counts[:, KV].mean(), 1) == 245.0
    assert (counts[1:, KV] == counts[:-1, Q]).all()
    assert len(policy.rankers) == 26
    # One that deletes a single token or none of the next layers' is a ranker all the same.
    assert [each.candidates for each in policy.schedule(576).rerankings] == [
        int(counts[layer, KV]) for layer, _ in policy.rankers
    ]


def test_the_recipe_of_fitprune_for_llava_next():
    policy = builders.fitprune(builders.FITPRUNE_NEXT_60, n_visual=2880)
    assert policy.resolve(2880)[-1].tolist() == [784] * 3
    assert policy.resolve(2144)[-1].tolist() == [598] * 3


@pytest.mark.parametrize("n_visual", [0, 1, 63, 576, 1176, 2144, 2928])
@pytest.mark.parametrize(
    ("recipe", "tokens"),
    [
        (builders.FITPRUNE_60, 576),
        (builders.FITPRUNE_NEXT_60, 2880),
        ({0: 300, 5: 1, 6: 275}, 576),
        ({3: 7}, 9),
    ],
    ids=["llava", "llava-next", "all", "few"],
)
def test_recipes_are_scaled_rounding_down_what_each_layer_deletes(
    recipe, tokens, n_visual, tmp_path
):
    policy = builders.fitprune(recipe, n_visual=tokens)
    scaled = {layer: n * n_visual // tokens for layer, n in recipe.items()}
    entering_and_left = recipe_tokens(scaled, n_visual, 32)
    policy.save_pretrained(tmp_path)
    for each in (policy, Policy.from_pretrained(tmp_path)):
        counts = each.resolve(n_visual)
        assert counts[:, KV].tolist() == entering_and_left[:-1]
        assert counts[:, Q].tolist() == counts[:, MLP].tolist() == entering_and_left[1:]


def test_what_the_recipe_of_fitprune_really_takes():
    """Published: queries and scores of the deleted are computed; here that is the ranker's work."""
    policy = builders.fitprune(builders.FITPRUNE_60)
    published = fitprune_macs(builders.FITPRUNE_60, 576, 0, LLAVA)
    assert published == 1_538_366_300_160
    assert macs(policy) == 1_529_467_052_032
    before, after = (policy.resolve(576)[:, module].tolist() for module in (KV, Q))
    d = LLAVA.hidden
    deleted = sum((n - m) * (d * d + 2 * n * d) for n, m in zip(before, after, strict=True))
    assert published - macs(policy) == deleted


@pytest.mark.parametrize(
    "policy",
    [
        builders.fastv(12, 3, "1/7"),
        builders.pyramiddrop(12),
        builders.sparsevlm(12),
        builders.fitprune({0: 3, 2: 4}, 12, 100),
    ],
    ids=str,
)
def test_files_hold_them(policy, tmp_path):
    policy.save_pretrained(tmp_path)
    again = Policy.from_pretrained(tmp_path)
    assert again == policy
    assert again.canonical(576) == policy.canonical(576)
    assert np.array_equal(again.live(576), policy.live(576))


@pytest.mark.parametrize(
    ("make", "values"),
    [
        (lambda: builders.sparsevlm(budget=100), (100, "192, 128, 96, 64")),
        (lambda: builders.fitprune({0: 9, 40: 1}), (10, 576, 0, 40, 32)),
        (lambda: builders.fitprune({0: 9}, 4, 8), (9, 8)),
        (lambda: builders.fastv(4, 4), ("[4]", "0..3")),
        (lambda: builders.fastv(4, share="1/0"), ("'1/0'", "'1/4'")),
        (lambda: builders.pyramiddrop(12, 0.5), (0.5, "float", "'1/4'")),
        (lambda: builders.pyramiddrop(12, "abc"), ("'abc'", "'1/4'")),
        (lambda: builders.sparsevlm(12, share=0.5), (0.5, "float", "'1/4'")),
        (lambda: builders.sparsevlm(12, share="abc"), ("'abc'", "'1/4'")),
        (lambda: builders.fastv(4, 0).live(9), ("fastv", "layer 0", 1)),
    ],
)
def test_what_cannot_be_built(make, values):
    with pytest.raises(PolicyError, match=naming(*values)):
        make()
