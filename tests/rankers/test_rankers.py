"""Rankers return permutations of the visual tokens, and the documented ones."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from opsearch.errors import PolicyError, UnknownNameError
from opsearch.models.vision import cls_attention
from opsearch.policy.ranker import RankerSpec, parse_ranker
from opsearch.rankers import make_ranker
from opsearch.rankers.base import Prompt, ranking_from_scores
from opsearch.rankers.cls import Cls
from opsearch.rankers.random import Random
from opsearch.rankers.uniform import Uniform
from tests.support import reference, tiny
from tests.support.messages import refuses

masks = st.integers(1, 4).flatmap(
    lambda rows: st.integers(1, 12).flatmap(
        lambda width: st.lists(
            st.lists(st.booleans(), min_size=width, max_size=width), min_size=rows, max_size=rows
        )
    )
)


def prompt_of(visual, scores=None):
    """Return a prompt without padding; scores: [CLS]'s attention to the visual tokens, in order."""
    visual = torch.tensor(visual)
    n_visual = tuple(visual.sum(1).tolist())
    captured = {} if scores is None else {"cls_attention": torch.tensor(scores)}
    return Prompt(visual, torch.ones_like(visual), n_visual, captured)


def one_image(n):
    """Return a prompt of one text token, n visual tokens and one text token."""
    return prompt_of([[False, *[True] * n, False]])


def chosen(ranker, total, kept):
    """Return the visual tokens of `total` that rank below `kept`."""
    places = ranker.rank(one_image(total), [kept])[0, 1:-1]
    return (places < kept).nonzero().flatten().tolist()


def assert_permutations(places, visual):
    for row, mask in zip(places, torch.tensor(visual), strict=True):
        assert sorted(row[mask].tolist()) == list(range(int(mask.sum())))
        assert (row[~mask] == -1).all()


@given(visual=masks, data=st.data())
def test_every_ranker_permutes_the_visual_tokens(visual, data):
    prompt = prompt_of(visual)
    total = sum(prompt.n_visual)
    drawn = data.draw(st.lists(st.floats(0, 1, width=32), min_size=total, max_size=total))
    prompt.captured["cls_attention"] = torch.tensor(drawn)
    kept = [data.draw(st.integers(0, n)) for n in prompt.n_visual]
    for name in ("cls", "random", "uniform"):
        assert_permutations(make_ranker(RankerSpec(name)).rank(prompt, kept), visual)


# A small alphabet makes ties frequent; infinities and padding must not change places.
scores = st.sampled_from([0.0, -0.0, 1.0, -2.5, float("inf"), -float("inf")])


@given(visual=masks, data=st.data())
def test_higher_scores_come_first_and_ties_keep_their_order(visual, data):
    mask = torch.tensor(visual)
    size = mask.numel()
    drawn = data.draw(st.lists(scores, min_size=size, max_size=size))
    given_scores = torch.tensor(drawn).view(mask.shape)
    places = ranking_from_scores(given_scores, mask)
    assert_permutations(places, visual)
    for row, values, where in zip(places, given_scores, mask, strict=True):
        expected = reference.rank_by(values[where].tolist(), where)
        assert row.tolist() == expected.tolist()


@given(visual=masks)
def test_scores_of_all_visual_tokens_are_scattered_in_order(visual):
    prompt = prompt_of(visual)
    spread = prompt.scatter(torch.arange(sum(prompt.n_visual)))
    assert spread[prompt.visual].tolist() == list(range(sum(prompt.n_visual)))
    assert (spread[~prompt.visual] == -torch.inf).all()


# cls


@pytest.mark.parametrize("layer", [0, 1, 2])
def test_cls_attention_is_that_of_the_vision_tower(layer):
    model = tiny.llava()
    tower = model.model.vision_tower
    pixels = torch.randn(3, 3, 12, 12, generator=torch.Generator().manual_seed(0))
    attention, seen = tower.encoder.layers[layer].self_attn, {}
    for name in ("q_proj", "k_proj"):
        getattr(attention, name).register_forward_hook(
            lambda module, args, output, name=name: seen.update({name: output})
        )
    tower.set_attn_implementation("eager")
    with torch.inference_mode():
        wanted = tower(pixels, output_attentions=True).attentions[layer]
    got = cls_attention(seen["q_proj"][:, :1], seen["k_proj"], attention.num_heads, attention.scale)
    torch.testing.assert_close(got, wanted.mean(1)[:, 0, 1:], rtol=0, atol=1e-6)
    assert got.unique().numel() > 20, "a constant would agree with a constant"


def test_cls_orders_each_sample_by_its_own_images():
    visual = [[True, True, False, True], [False, False, False, False], [False, True, False, True]]
    places = Cls().rank(prompt_of(visual, [0.1, 0.3, 0.2, 0.5, 0.5]), [2, 0, 1])
    assert places.tolist() == [[2, 0, -1, 1], [-1, -1, -1, -1], [-1, 0, -1, 1]]


# uniform


@pytest.mark.parametrize("total", [1, 2, 5, 9, 24, 576])
def test_uniform_takes_the_middles_of_equal_parts(total):
    for kept in {0, 1, 2, total // 3, total // 2, total - 1, total} & set(range(total + 1)):
        wanted = [int(np.floor((i + 0.5) * total / kept)) for i in range(kept)]
        assert chosen(Uniform(), total, kept) == wanted


@given(total=st.integers(1, 200), data=st.data())
def test_uniform_takes_as_many_tokens_as_asked(total, data):
    kept = data.draw(st.integers(0, total))
    assert len(chosen(Uniform(), total, kept)) == kept


def test_uniform_keeps_the_order_within_the_chosen_and_the_others():
    places = Uniform().rank(one_image(6), [2])[0].tolist()
    assert places == [-1, 2, 0, 3, 4, 1, 5, -1]


def test_uniform_counts_for_each_sample_alone():
    visual = [[True] * 4, [True, False, True, False]]
    assert Uniform().rank(prompt_of(visual), [1, 1]).tolist() == [[1, 2, 0, 3], [1, -1, 0, -1]]


# random


@given(seed=st.integers(0, 5), total=st.integers(0, 30), others=masks)
def test_random_depends_on_seed_and_number_of_tokens_alone(seed, total, others):
    """The row, other samples, the number kept and the tokens' positions do not matter."""
    ranker = Random(seed)
    alone = ranker.rank(one_image(total), [total])[0, 1:-1]
    width = max(total, len(others[0])) + 3
    rows = [row + [False] * (width - len(row)) for row in others]
    rows.append([False] * (width - total) + [True] * total)
    batch = ranker.rank(prompt_of(rows), [1] * len(rows))
    assert torch.equal(batch[-1, width - total :], alone)


def test_random_differs_between_seeds_and_sizes():
    orders = {tuple(Random(seed).rank(one_image(9), [9])[0, 1:-1].tolist()) for seed in range(20)}
    assert len(orders) == 20
    nine = Random().rank(one_image(9), [9])[0, 1:-1].tolist()
    ten = Random().rank(one_image(10), [10])[0, 1:-1].tolist()
    assert [place for place in ten if place < 9] != nine


def test_random_is_the_same_in_every_release():
    """Saved policies name a seed, so its order must not change."""
    assert Random(3).rank(one_image(6), [6])[0, 1:-1].tolist() == [2, 1, 4, 5, 3, 0]


# Names and properties


def test_parameters_of_a_spec_reach_the_ranker():
    assert make_ranker(RankerSpec("random", (("seed", 7),))) == Random(7)


def test_unknown_names_list_the_known_ones():
    with refuses(UnknownNameError, "ranker", "'best'", "cdpruner, cls, divprune, "):
        make_ranker(RankerSpec("best"))


@pytest.mark.parametrize("params", [(("sed", 7),), (("seed", 1), ("n", 2))])
def test_parameters_that_do_not_exist(params):
    spec = RankerSpec("random", params)
    with refuses(PolicyError, spec) as caught:
        make_ranker(spec)
    assert "seed" in str(caught.value).replace(str(spec), ""), "the parameter that there is"
    with refuses(PolicyError, "uniform(needs=x)", "--ranker uniform"):
        make_ranker(RankerSpec("uniform", (("needs", "x"),)))
    with refuses(PolicyError, "cls(n=1)", "--ranker cls"):
        make_ranker(RankerSpec("cls", (("n", 1),)))


@pytest.mark.parametrize("seed", ["three", -1, 1.5])
def test_seeds_that_are_no_natural_number(seed):
    with refuses(PolicyError, "random", "seed", repr(seed), "parameter"):
        make_ranker(RankerSpec("random", (("seed", seed),)))


# Text form


@pytest.mark.parametrize(
    "spec",
    [
        RankerSpec("cls"),
        RankerSpec("random", (("seed", 3),)),
        RankerSpec("vispruner", (("important", 0.3),)),
        RankerSpec("cdpruner", (("clip", "a/b-c.d"),)),
        RankerSpec("of-mine", (("a", "x y"), ("b", -1))),
    ],
    ids=str,
)
def test_a_spec_is_read_as_it_is_printed(spec):
    assert parse_ranker(str(spec)) == spec


@pytest.mark.parametrize("text", ["", "cls(", "random(3)", "random(seed=)", "a b", "random(=3)"])
def test_words_that_are_no_ranker(text):
    with refuses(PolicyError, repr(text), "NAME", "random(seed=3)"):
        parse_ranker(text)
