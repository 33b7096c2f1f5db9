"""Prompts before they enter the engine, and the policies that they are served under."""

from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from opsearch import Policy, RankerSpec, builders
from opsearch.errors import PolicyError
from opsearch.serving.identifiers import mark, n_visual_of
from opsearch.serving.key_parts import key_parts, keys_held
from opsearch.serving.prompt_rows import PromptShape
from opsearch.serving.served_policy import ServedPolicy
from opsearch.serving.shrink import ImageSpan, shrink, visual_rows

IMAGE = 7


def span(offset, text):
    """An image whose rows are visual where `text` has an x."""
    return ImageSpan(offset, torch.tensor([letter == "x" for letter in text]))


def held(tokens, spans):
    return [
        token for token, seen in zip(tokens, visual_rows(len(tokens), spans), strict=True) if seen
    ]


def test_one_image_keeps_what_enters_the_decoder():
    tokens = [1, 2, 8, *[IMAGE] * 5, 9, 3]
    shorter, (image,) = shrink(tokens, [span(2, ".xxxxx.")], lambda n: n // 2)
    assert shorter == [1, 2, 8, IMAGE, IMAGE, 9, 3]
    assert (image.offset, image.embedded.tolist()) == (2, [False, True, True, False])
    assert held(shorter, [image]) == [IMAGE] * 2
    shape = PromptShape(visual_rows(len(shorter), [image]), 5)
    assert shape.full(torch.tensor(shorter)).tolist() == tokens


@pytest.mark.parametrize(
    "spans",
    [
        pytest.param([span(1, "xx"), span(3, "xx")], id="two images"),
        pytest.param([span(1, "xx.x")], id="text inside an image"),
    ],
)
def test_other_prompts_hold_all_rows(spans):
    tokens = [1, IMAGE, IMAGE, IMAGE, IMAGE, 2]
    shorter, images = shrink(tokens, spans, lambda n: 1)
    assert (shorter, images) == (tokens, spans)


@pytest.mark.parametrize("identifier", ["abc", "a-b-3", "-"])
def test_identifiers_carry_the_size_of_an_image(identifier):
    assert n_visual_of(mark(identifier, 576)) == 576


def random_ranker():
    return RankerSpec("random", (("seed", 1),))


@pytest.mark.parametrize(
    ("policy", "images", "shares"),
    [
        (builders.tokens(4, Fraction(1, 4), random_ranker()), 1, True),
        (builders.tokens(4, Fraction(1, 4), random_ranker()), 2, False),
        (builders.dop(4, 2, 2, 1, None, kv="stays"), 2, True),
        (builders.dop(4, 2, 2, 1, None, kv="leaves"), 0, True),
        (builders.dop(4, 2, 2, 1, None, kv="leaves"), 1, False),
        (builders.tokens(4, Fraction(1, 4), RankerSpec("mmtok")), 1, False),
    ],
)
def test_keys_are_shared_where_they_depend_on_the_rows_before_alone(policy, images, shares):
    assert ServedPolicy(policy).shares_prefix([16] * images) is shares


def test_entering_counts_all_modules_and_at_least_one_token():
    quarter, half = Fraction(1, 4), Fraction(1, 2)
    policy = Policy(((quarter, half, quarter), (0, quarter, 0)), rankers=((0, random_ranker()),))
    assert ServedPolicy(policy).entering(16) == 8
    assert ServedPolicy(builders.dop(2, 0, 0, 1, None, kv="leaves")).entering(16) == 1


def test_rankers_inside_the_decoder_are_refused():
    counts = [(1, 1, 1)] * 2 + [(Fraction(1, 2),) * 3] * 2
    with pytest.raises(PolicyError, match="inside the decoder"):
        ServedPolicy(Policy(tuple(counts), rankers=((2, RankerSpec("fastv")),)))


def test_ranks_are_those_of_the_runtime():
    generator = torch.Generator().manual_seed(0)
    embeds = torch.randn(12, 8, generator=generator)
    visual = torch.tensor([False, *[True] * 9, False, False])
    policy = builders.tokens(2, Fraction(1, 3), RankerSpec("divprune"))
    rank = ServedPolicy(policy).rank(embeds, visual, {})
    chosen = (rank < 3).nonzero()[:, 0].tolist()
    assert len(chosen) == 3
    # DivPrune: the token farthest from its nearest other token, then max-min distance.
    distance = 1 - torch.nn.functional.cosine_similarity(embeds[1:10, None], embeds[None, 1:10], -1)
    nearest = (distance + 10 * torch.eye(9)).amin(1)
    picked = [int(nearest.argmax())]
    while len(picked) < 3:
        picked.append(int(distance[:, picked].amin(1).argmax()))
    assert chosen == sorted(picked)


@pytest.mark.parametrize(
    ("kept", "parts"),
    [
        pytest.param([64] * 4, [], id="all keys stay"),
        pytest.param([64, 64, 0, 0], [(0, 1), (2, 3)], id="halves"),
        pytest.param([16] * 4, [], id="fewer enter"),
        pytest.param([64, 0, 0, 0], [(0,), (1,), (2,), (3,)], id="one layer reads"),
        pytest.param([0, 64, 32, 64], [(1,), (3,), (2,), (0,)], id="sorted"),
        pytest.param([63, 64, 1, 0], [(1, 0), (2, 3)], id="nearly equal"),
    ],
)
def test_layers_share_blocks_with_layers_that_keep_as_many_keys(kept, parts):
    counts = tuple((Fraction(n, 64), Fraction(n, 64), Fraction(n, 64)) for n in kept)
    served = ServedPolicy(Policy(counts, rankers=((0, random_ranker()),)))
    assert key_parts(served) == parts


@given(st.data())
def test_slots_hold_the_kept_keys_whatever_their_ranks(data):
    visual = torch.tensor(data.draw(st.lists(st.booleans(), min_size=1, max_size=20)))
    n = int(visual.sum())
    share = Fraction(data.draw(st.integers(0, 16)), 16)
    served = ServedPolicy(
        Policy(((1, 1, 1), (0, share, 0), (0, 0, 0)), rankers=((0, random_ranker()),))
    )
    held = keys_held(served, (1, 2), visual, n)
    rank = torch.full((len(visual),), -1)
    rank[visual] = torch.tensor(data.draw(st.permutations(range(n))), dtype=torch.long)
    limit = int(served.counts(n)[1, 1]) if n else 0
    kept = (rank < limit).cumsum(0)
    assert (held[1:] >= kept).all()
    assert held[0] == 0
    assert held[-1] == kept[-1]
