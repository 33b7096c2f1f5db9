"""Rankers choose as their papers describe.

Vectors of +-1 make all arithmetic exact, so ties must be broken as described too.
"""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from opsearch.errors import PolicyError
from opsearch.policy.ranker import RankerSpec, parse_ranker
from opsearch.rankers import RANKERS, make_ranker
from opsearch.rankers.base import Prompt
from opsearch.rankers.cdpruner import CDPruner
from opsearch.rankers.divprune import DivPrune
from opsearch.rankers.evs import EVS, spread_places
from opsearch.rankers.mmtok import MMTok
from opsearch.rankers.otprune import OTPrune
from opsearch.rankers.received import Received
from opsearch.rankers.visionzip import VisionZip
from opsearch.rankers.vispruner import VisPruner
from tests.rankers import batches, literal
from tests.support.messages import refuses

ALL = (
    *("cdpruner", "cls", "divprune", "evs", "mmtok", "otprune"),
    *("random", "received", "uniform", "visionzip", "vispruner"),
)
NESTED = tuple(name for name in ALL if name not in ("uniform", "vispruner"))
every_ranker = pytest.mark.parametrize("name", ALL)


@st.composite
def asked(draw, exact=True):
    """Draw samples of one to three tiles, and the number of tokens that each keeps."""
    layout = draw(st.lists(st.lists(st.integers(1, 30), min_size=1, max_size=3), max_size=3))
    layout.insert(draw(st.integers(0, len(layout))), [draw(st.integers(1, 40))])
    samples = [batches.sample(sizes, draw(st.integers(0, 10**6)), exact) for sizes in layout]
    return samples, [draw(st.integers(0, len(s.tile))) for s in samples]


def kept_tokens(name, samples, n, dtype=torch.float32, **params):
    prompt = batches.prompt(samples, pad=2, dtype=dtype)
    places = make_ranker(RankerSpec(name, tuple(params.items()))).rank(prompt, n)
    for row, mask in zip(places, prompt.visual, strict=True):
        assert sorted(row[mask].tolist()) == list(range(int(mask.sum())))
        assert (row[~mask] == -1).all()
    return [batches.chosen(places, prompt, b, kept) for b, kept in enumerate(n)]


def by_tile(sample, n, choose):
    """Return the literal choice: each tile's number of n tokens, chosen within the tile."""
    tiles = [sample.of_tile(t) for t in sorted(set(sample.tile.tolist()))]
    shares = literal.shares([len(own) for own in tiles], n)
    return {own[i] for own, kept in zip(tiles, shares, strict=True) for i in choose(own, kept)}


@settings(max_examples=60)
@given(asked(), st.sampled_from([0, 0.3, 0.5, 1]), st.sampled_from([torch.float32, torch.bfloat16]))
def test_vispruner_equals_its_description(case, important, dtype):
    samples, n = case
    found = kept_tokens("vispruner", samples, n, dtype, important=important)
    for s, kept, tokens in zip(samples, n, found, strict=True):

        def choose(own, count, s=s):
            scores, features = s.scores[own].tolist(), s.features[own].tolist()
            return literal.vispruner(scores, features, count, important)

        assert set(tokens) == by_tile(s, kept, choose)


@settings(max_examples=60)
@given(asked(), st.sampled_from([torch.float32, torch.bfloat16]))
def test_divprune_equals_its_description(case, dtype):
    samples, n = case
    found = kept_tokens("divprune", samples, n, dtype)
    for s, kept, tokens in zip(samples, n, found, strict=True):
        assert tokens == literal.max_min(s.embeds.tolist(), kept)


@settings(max_examples=60)
@given(asked(exact=False), st.sampled_from([torch.float32, torch.bfloat16]))
def test_cls_takes_the_most_attended_of_each_sample(case, dtype):
    samples, n = case
    for s in samples:
        s.scores = s.scores.to(dtype)
    found = kept_tokens("cls", samples, n)
    for s, kept, tokens in zip(samples, n, found, strict=True):
        assert tokens == literal.by_score(s.scores.tolist())[:kept]


@settings(max_examples=60)
@given(asked(exact=False), st.sampled_from([torch.float32, torch.bfloat16]))
def test_visionzip_takes_the_most_attended_of_each_tile(case, dtype):
    samples, n = case
    for s in samples:
        s.scores = s.scores.to(dtype)
    found = kept_tokens("visionzip", samples, n)
    for s, kept, tokens in zip(samples, n, found, strict=True):

        def choose(own, count, s=s):
            return literal.by_score(s.scores[own].tolist())[:count]

        assert set(tokens) == by_tile(s, kept, choose)


@settings(max_examples=30)
@given(
    st.lists(st.integers(1, 11), min_size=1, max_size=2),
    st.integers(0, 10**6),
    st.sampled_from([torch.float32, torch.bfloat16]),
)
def test_cdpruner_multiplies_the_determinant_most(sizes, seed, dtype):
    """Each next token of a tile is the best one given those before it, within rounding."""
    s = batches.sample(sizes, seed, exact=False)
    s.embeds, s.words = s.embeds.to(dtype).float(), s.words.to(dtype).float()
    (tokens,) = kept_tokens("cdpruner", [s], [sum(sizes)], dtype)
    words = torch.nn.functional.normalize(s.words, dim=-1)
    raw = (torch.nn.functional.normalize(s.embeds, dim=-1) @ words.T).mean(1)
    span = raw.max() - raw.min() + 1e-6
    relevance = ((raw - raw.min() + 1e-6) / span).double()
    for tile in set(s.tile.tolist()):
        own = s.of_tile(tile)
        vectors, relevances = s.embeds[own].double().tolist(), relevance[own].tolist()
        order = [own.index(token) for token in tokens if token in own]
        # The least relevant token comes last: its determinants are only rounding.
        for k, token in enumerate(order[:-1]):
            gains = literal.gains(vectors, relevances, order[:k])
            assert gains[token] >= max(gains.values()) * (1 - 1e-3)


@settings(max_examples=60)
@given(asked(exact=False), st.sampled_from([torch.float32, torch.bfloat16]))
def test_received_takes_the_most_attended_of_each_sample(case, dtype):
    samples, n = case
    for s in samples:
        s.scores = s.scores.to(dtype)
    found = kept_tokens("received", samples, n)
    for s, kept, tokens in zip(samples, n, found, strict=True):
        assert tokens == literal.by_score(s.scores.tolist())[:kept]


@settings(max_examples=60)
@given(asked(), st.sampled_from([torch.float32, torch.bfloat16]))
def test_evs_equals_its_description(case, dtype):
    samples, n = case
    found = kept_tokens("evs", samples, n, dtype)
    for s, kept, tokens in zip(samples, n, found, strict=True):
        assert tokens == literal.evs(s.embeds.tolist(), s.step.tolist())[:kept]


GREEDY = {
    "otprune": lambda s, chosen: literal.transported(s.embeds.double().tolist(), chosen),
    "mmtok": lambda s, chosen: literal.coverage(
        s.features.tolist(), s.embeds.tolist(), s.words.tolist(), chosen
    ),
    "mmtok(text=0)": lambda s, chosen: literal.coverage(s.features.tolist(), [], [], chosen),
}


@pytest.mark.parametrize("name", GREEDY)
@settings(max_examples=20)
@given(
    st.lists(st.integers(1, 9), min_size=1, max_size=2),
    st.booleans(),
    st.integers(0, 10**6),
    st.sampled_from([torch.float32, torch.bfloat16]),
)
def test_greedy_rankers_add_the_token_that_gains_most(name, sizes, exact, seed, dtype):
    """Each next token of a sample is the best one given those before it, within rounding."""
    samples = [batches.sample([size], seed + k, exact) for k, size in enumerate(sizes)]
    for s in samples:
        s.embeds, s.words, s.features = (
            each.to(dtype).float() for each in (s.embeds, s.words, s.features)
        )
    spec = parse_ranker(name)
    found = kept_tokens(spec.name, samples, sizes, dtype, **dict(spec.params))
    for s, tokens in zip(samples, found, strict=True):
        for k, token in enumerate(tokens):
            gains = GREEDY[name](s, tokens[:k])
            assert gains[token] >= max(gains.values()) * (1 - 1e-3) - 1e-6


# Hand-made cases


def one_tile(embeds, scores=None, features=None, words=()):
    embeds = torch.tensor(embeds)
    n = len(embeds)
    return batches.TokenSample(
        torch.zeros(n, dtype=torch.int64),
        torch.tensor(scores or [1.0] * n),
        torch.tensor(features) if features else embeds,
        embeds,
        torch.tensor(words or [[0.0] * batches.WIDTH]),
        torch.zeros(n, dtype=torch.int64),
    )


def axes(*vectors):
    """Return vectors with the given first entries, and 0 elsewhere."""
    return [[*map(float, v), *[0.0] * (batches.WIDTH - len(v))] for v in vectors]


def on_a_circle(*degrees):
    return axes(*([np.cos(np.deg2rad(d)), np.sin(np.deg2rad(d))] for d in degrees))


def test_divprune_starts_far_from_all_and_goes_on_far_from_the_chosen():
    s = one_tile(on_a_circle(0, 10, 90, 180))
    assert kept_tokens("divprune", [s], [4]) == [[3, 0, 2, 1]]


def test_vispruner_compares_every_second_token_with_those_between():
    # After the two most attended, one of 2 3 4 5 must go: 2 or 4, by similarity to 3 or 5.
    features = axes([1], [1], [1, 0, 0], [0, 1, 0], [0, 0.1, 1], [0, 0, 1])
    s = one_tile(features, scores=[6, 5, 4, 3, 2, 1], features=features)
    assert kept_tokens("vispruner", [s], [5]) == [[0, 1, 2, 3, 5]]
    # One round is enough to delete both 2 and 4.
    assert kept_tokens("vispruner", [s], [4]) == [[0, 1, 3, 5]]


def test_cdpruner_orders_unlike_tokens_by_relevance_and_puts_copies_last():
    s = one_tile(axes([1], [0, 1], [0, 0, 1], [0, 1]), words=axes([0.1, 0.3, 0.2]))
    assert kept_tokens("cdpruner", [s], [4]) == [[1, 2, 0, 3]]


def test_otprune_puts_an_outlier_last_that_divprune_takes_first():
    s = one_tile(axes([1, 0.1], [1, -0.1], [1, 0], [0, 0, 1]))
    assert kept_tokens("divprune", [s], [1]) == [[3]]
    assert kept_tokens("otprune", [s], [4]) == [[2, 0, 1, 3]]


def test_mmtok_covers_the_question_before_the_image():
    """Without the question, the token that stands for most of the image comes first."""
    features = axes([1], [1], [1], [0, 1])
    s = one_tile(axes([1], [1], [1], [0, 1]), features=features, words=axes([0, 1]))
    assert kept_tokens("mmtok", [s], [2]) == [[3, 0]]
    assert kept_tokens("mmtok", [s], [2], text=0) == [[0, 3]]


def test_evs_takes_first_frames_evenly_then_the_tokens_that_change():
    # An image of four tokens, then three frames of two tokens each; the last token changes most.
    s = one_tile(on_a_circle(0, 5, 0, 5, 10, 20, 10, 30, 40, 110))
    s.step = torch.tensor([0, 0, 0, 0, 0, 0, 2, 2, 2, 2])
    assert kept_tokens("evs", [s], [10]) == [[0, 4, 2, 1, 5, 3, 9, 8, 7, 6]]


@pytest.mark.parametrize("number", [1, 2, 3, 8, 100, 577])
def test_evs_spreads_any_number_of_tokens_over_a_frame(number):
    """Each of n equal parts of a frame has at most three of the first n tokens."""
    places = spread_places(number)
    assert sorted(places.tolist()) == list(range(number))
    for kept in {1, 2, number // 3, number // 2, number} - {0}:
        parts = np.flatnonzero(places < kept) * kept // number
        assert np.bincount(parts).max() <= 3


def test_visionzip_shares_among_tiles_what_cls_does_not():
    s = batches.sample([4, 2], seed=0)
    s.tile = torch.tensor([0, 0, 1, 0, 1, 0])
    s.scores = torch.tensor([0.9, 0.8, 0.1, 0.7, 0.2, 0.6])
    assert kept_tokens("visionzip", [s], [6]) == [[0, 4, 1, 3, 2, 5]]
    assert kept_tokens("cls", [s], [3]) == [[0, 1, 3]]
    one = one_tile(s.embeds.tolist(), scores=s.scores.tolist())
    assert kept_tokens("visionzip", [one], [6]) == kept_tokens("cls", [one], [6])


# Edges


@every_ranker
@settings(max_examples=20)
@given(asked(exact=False), st.integers(0, 5))
def test_neither_padding_nor_other_samples_change_a_choice(name, case, pad):
    samples, n = case
    together = kept_tokens(name, samples, n)
    prompts = [batches.prompt([s], pad) for s in samples]
    alone = [
        batches.chosen(make_ranker(RankerSpec(name)).rank(p, [kept]), p, 0, kept)
        for p, kept in zip(prompts, n, strict=True)
    ]
    assert together == alone


@every_ranker
def test_an_answer_behind_the_prompt_is_not_seen(name):
    prompt = batches.prompt([batches.sample([20], seed=0, exact=False)])
    ranker, alone = make_ranker(RankerSpec(name)), None
    for seed in (None, 0, 1):
        if seed is not None:
            torch.manual_seed(seed)
            answer = torch.randn(1, 2, batches.WIDTH)
            prompt.embeds = torch.cat([prompt.embeds[:, :24], answer], 1)
            prompt.visual, prompt.real = (
                torch.nn.functional.pad(mask[:, :24], (0, 2))
                for mask in (prompt.visual, prompt.real)
            )
        places = ranker.rank(prompt, [9])[:, :24]
        alone = places if alone is None else alone
        assert torch.equal(places, alone)


@every_ranker
@pytest.mark.parametrize("sizes", [[1], [1, 1], [2], [9]])
def test_constant_features_and_scores(name, sizes):
    s = batches.sample(sizes, seed=0)
    for tensor in (s.scores, s.features, s.embeds):
        tensor[:] = 1.0
    for n in range(sum(sizes) + 1):
        assert len(kept_tokens(name, [s], [n])[0]) == n


def test_constant_features_go_by_order_or_attention():
    s = batches.sample([6], seed=0)
    s.features[:], s.embeds[:] = 1.0, 1.0
    s.scores = torch.arange(6.0)
    assert kept_tokens("divprune", [s], [6]) == [[0, 1, 2, 3, 4, 5]]
    assert kept_tokens("cdpruner", [s], [6]) == [[0, 1, 2, 3, 4, 5]]
    assert kept_tokens("vispruner", [s], [6]) == [[5, 4, 3, 2, 1, 0]]


@pytest.mark.parametrize("name", NESTED)
@settings(max_examples=20)
@given(asked(exact=False), st.randoms())
def test_the_first_tokens_of_nested_rankers_do_not_depend_on_how_many_are_kept(name, case, random):
    assert make_ranker(RankerSpec(name)).nested
    samples, n = case
    fewer = [random.randint(0, kept) for kept in n]
    first = kept_tokens(name, samples, fewer)
    all_of_them = kept_tokens(name, samples, [len(s.tile) for s in samples])
    assert first == [tokens[:kept] for tokens, kept in zip(all_of_them, fewer, strict=True)]


@pytest.mark.parametrize("name", ["uniform", "vispruner"])
def test_the_others_say_that_they_are_not_nested(name):
    assert not make_ranker(RankerSpec(name)).nested
    s = batches.sample([30], seed=0)
    assert not set(kept_tokens(name, [s], [9])[0]) <= set(kept_tokens(name, [s], [14])[0])


@every_ranker
def test_samples_without_visual_tokens(name):
    with_image, without = batches.sample([5], seed=0), batches.sample([], seed=1)
    assert [len(t) for t in kept_tokens(name, [without, with_image, without], [0, 3, 0])] == [
        0,
        3,
        0,
    ]
    assert kept_tokens(name, [without], [0]) == [[]]


@every_ranker
def test_nothing_waits_for_the_device(name):
    """The meta device holds no values, so reading one is an error."""
    if name in ("random", "uniform"):
        pytest.skip("their order is made on the host")
    samples = [batches.sample([9, 4], seed=0), batches.sample([7], seed=1)]
    prompt = batches.prompt(samples, device="meta")
    places = make_ranker(RankerSpec(name)).rank(prompt, [5, 3])
    assert places.device.type == "meta"
    assert places.shape == prompt.visual.shape


class Copies(TorchDispatchMode):
    """A counter of tensors built from host numbers, each a copy that waits for the device."""

    number = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.number += func is torch.ops.aten.lift_fresh.default
        return func(*args, **kwargs or {})


@every_ranker
def test_copies_to_the_device_do_not_grow_with_the_number_of_steps(name):
    found = []
    for size, kept in ((9, 5), (90, 5)):
        prompt = batches.prompt([batches.sample([size, size], seed=0)])
        with Copies() as copies:
            make_ranker(RankerSpec(name)).rank(prompt, [kept])
        found.append(copies.number)
    assert found[0] == found[1] < 9


# Parameters and needs


@pytest.mark.parametrize("important", [-0.1, 1.1, "half"])
def test_shares_that_are_none(important):
    with refuses(PolicyError, f"important={important!r}", 0, 1, "parameter"):
        make_ranker(RankerSpec("vispruner", (("important", important),)))


@pytest.mark.parametrize("layer", [0.0, 1.5, "half", True])
def test_layers_that_are_none(layer):
    with refuses(PolicyError, f"layer={layer!r}", "index", "share", "parameter"):
        make_ranker(RankerSpec("received", (("layer", layer),)))


@pytest.mark.parametrize("text", [-0.5, "no", float("inf")])
def test_weights_that_are_none(text):
    with refuses(PolicyError, f"text={text!r}", "weight", "parameter"):
        make_ranker(RankerSpec("mmtok", (("text", text),)))


def test_what_is_not_needed_is_not_read():
    """Each ranker gets only the inputs that it declares."""
    assert set(ALL) == set(RANKERS)
    full = batches.prompt([batches.sample([9], seed=0)])
    for name in ALL:
        ranker = make_ranker(RankerSpec(name))
        captured = {need: full.captured[need] for need in ranker.needs & full.captured.keys()}
        embeds = full.embeds if "embeddings" in ranker.needs else None
        ranker.rank(Prompt(full.visual, full.real, full.n_visual, captured, embeds), [4])
    assert CDPruner(clip="x").needs > {"embeddings", "clip_patches:x", "clip_question:x"}
    assert DivPrune().needs == {"embeddings"}
    assert VisionZip().needs == {"cls_attention", "tiles"}
    assert VisPruner().needs == {"cls_attention", "vision_features", "tiles"}
    assert EVS().needs == {"embeddings", "previous_frame"}
    assert MMTok().needs == {"embeddings", "text_embeddings", "vision_features"}
    assert MMTok(text=0).needs == {"vision_features"}
    assert OTPrune().needs == {"embeddings"}
    assert Received(layer=-2).needs == {"received_attention:-2"}
