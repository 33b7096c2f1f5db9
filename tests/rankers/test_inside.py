"""Rankers inside the decoder equal loops over lists, on random layers and by hand."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from opsearch.errors import PolicyError, UnknownNameError
from opsearch.policy.ranker import RankerSpec
from opsearch.rankers import DECODER_RANKERS, RANKERS, make_decoder_ranker, make_ranker
from opsearch.rankers.base import DECODER_ATTENTION, AttentionView, Prompt
from opsearch.rankers.decoder import raters
from tests.rankers import literal
from tests.support.messages import refuses

HEADS, KV_HEADS, DIM, WIDTH = 4, 2, 6, 5


def random_view(query_rows, samples, seed=0, keep=1.0, pad="left", dtype=torch.float32):
    """Return the ranker's view of random prompts (text before, visual tokens, text after).

    keep: Share of the visual tokens that is still there to rank.
    """
    generator = torch.Generator().manual_seed(seed)
    length = max(map(sum, samples))
    visual = torch.zeros(len(samples), length, dtype=torch.bool)
    real, left = visual.clone(), visual.clone()
    for b, sizes in enumerate(samples):
        start = length - sum(sizes) if pad == "left" else 0
        first = start + sizes[0]
        real[b, start : start + sum(sizes)] = True
        visual[b, first : first + sizes[1]] = True
        drawn = torch.rand(length, generator=generator) < keep
        left[b] = real[b] & (~visual[b] | drawn)

    def random(*sizes):
        return torch.randn(*sizes, generator=generator).to(dtype)

    embeds = random(len(samples), length, WIDTH)
    prompt = Prompt(visual, real, tuple(visual.sum(1).tolist()), {}, embeds)
    last = torch.zeros_like(real)
    for b in range(len(samples)):
        last[b, real[b].nonzero()[-1]] = True
    query_positions, query_valid = placed(
        {"last": last, "text": real & ~visual, "all": left}[query_rows]
    )
    key_positions, key_valid = placed(left)
    queries = random(len(samples), HEADS, query_positions.shape[1], DIM)
    keys = random(len(samples), KV_HEADS, key_positions.shape[1], DIM)
    return AttentionView(
        prompt, queries, query_positions, query_valid, keys, key_positions, key_valid, DIM**-0.5
    )


def placed(mask):
    """Return the positions of the mask, padded at the end, and a mask of the real ones."""
    order = torch.argsort(~mask, dim=1, stable=True)[:, : int(mask.sum(1).max())]
    return order, mask.gather(1, order)


def attention(seen, b):
    """Return the attention [H][S][S] of one sample in loops, 0 for rows and columns not used."""
    length = seen.prompt.visual.shape[1]
    maps = [[[0.0] * length for _ in range(length)] for _ in range(HEADS)]
    queries, keys = seen.queries.double(), seen.keys.double()
    for h in range(HEADS):
        for i, row in enumerate(seen.query_positions[b].tolist()):
            columns = [
                (j, column)
                for j, column in enumerate(seen.key_positions[b].tolist())
                if seen.query_valid[b, i] and seen.key_valid[b, j] and column <= row
            ]
            scores = [
                float(queries[b, h, i] @ keys[b, h * KV_HEADS // HEADS, j]) * seen.scaling
                for j, _ in columns
            ]
            weights = torch.tensor(scores, dtype=torch.float64).softmax(0).tolist()
            for (_, column), weight in zip(columns, weights, strict=True):
                maps[h][row][column] = weight
    return maps


def expected(spec, seen, b):
    """Return the tokens to rank and their scores by the literal version."""
    name, params = spec.name, dict(spec.params)
    visual, real = seen.prompt.visual[b], seen.prompt.real[b]
    columns = zip(seen.key_positions[b].tolist(), seen.key_valid[b].tolist(), strict=True)
    tokens = [column for column, there in columns if there and visual[column]]
    places = real.nonzero().flatten().tolist()
    shown = visual.nonzero().flatten().tolist()
    words = [place for place in places if place > shown[-1]]
    maps = attention(seen, b)
    if name == "sparsevlm":
        rating = literal.raters(seen.prompt.embeds[b].double().tolist(), shown, words)
        return tokens, literal.sparsevlm(maps, tokens, rating, params["heads"])
    if name == "fitprune":
        return tokens, literal.fitprune(maps, tokens, words) if tokens else []
    return tokens, literal.of_last_row(maps, tokens, places[-1])


samples = st.lists(st.tuples(st.integers(0, 3), st.integers(1, 6), st.integers(1, 4)), min_size=1)


SPARSEVLM = [RankerSpec("sparsevlm", (("heads", share),)) for share in (1, 0.4375, 0.01)]
OTHERS = [RankerSpec(name) for name in DECODER_RANKERS if name != "sparsevlm"]


@pytest.mark.parametrize("spec", [*OTHERS, *SPARSEVLM], ids=str)
@settings(max_examples=25, deadline=None)
@given(
    sizes=samples.map(lambda drawn: drawn[:3]),
    seed=st.integers(0, 999),
    keep=st.sampled_from([0.0, 0.5, 1.0]),
    pad=st.sampled_from(["left", "right"]),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
)
def test_scores_are_those_of_the_literal_version(spec, sizes, seed, keep, pad, dtype):
    ranker = make_decoder_ranker(spec)
    seen = random_view(ranker.query_rows, sizes, seed, keep, pad, dtype)
    found = ranker.scores(seen)
    assert found.dtype == torch.float32
    assert found.shape == seen.key_positions.shape
    for b in range(len(sizes)):
        tokens, scores = expected(spec, seen, b)
        columns = [seen.key_positions[b].tolist().index(token) for token in tokens]
        assert found[b, columns].tolist() == pytest.approx(scores, rel=1e-4, abs=1e-7)


def test_more_rows_than_are_taken_at_once():
    spec = RankerSpec("fitprune")
    ranker = make_decoder_ranker(spec)
    seen = random_view(ranker.query_rows, [(3, 70, 20)])
    tokens, scores = expected(spec, seen, 0)
    columns = [seen.key_positions[0].tolist().index(token) for token in tokens]
    assert ranker.scores(seen)[0, columns].tolist() == pytest.approx(scores, rel=1e-4)


@pytest.mark.parametrize("name", DECODER_RANKERS)
def test_equal_tokens_have_equal_scores(name):
    """With equal scores the first token ranks first; FitPrune's rows must not look ahead."""
    ranker = make_decoder_ranker(RankerSpec(name))
    seen = random_view(ranker.query_rows, [(1, 4, 2)])
    seen.keys[:, :, 1:5] = seen.keys[:, :, 1:2].clone()
    scores = ranker.scores(seen)[0, 1:5]
    if name == "fitprune":
        assert scores.tolist() == sorted(scores.tolist(), reverse=True), "later ones are seen less"
    else:
        assert (scores == scores[0]).all()


def by_hand(query_rows, scores, embeds=None):
    """Return one head's view of [text, 3 visual tokens, 2 words]; scores [Q][6] before softmax."""
    visual = torch.tensor([[False, True, True, True, False, False]])
    rows = {"last": [5], "text": [0, 4, 5], "all": [0, 1, 2, 3, 4, 5]}[query_rows]
    query_positions, key_positions = torch.tensor([rows]), torch.arange(6)[None]
    prompt = Prompt(visual, torch.ones_like(visual), (3,), {}, embeds)
    keys, queries = torch.eye(6)[None, None], torch.tensor(scores)[None, None]
    there = (
        torch.ones_like(query_positions, dtype=torch.bool),
        torch.ones_like(key_positions, dtype=torch.bool),
    )
    return AttentionView(
        prompt, queries, query_positions, there[0], keys, key_positions, there[1], 1.0
    )


@pytest.mark.parametrize("name", ["fastv", "pyramiddrop"])
def test_the_last_token_attends_to_the_second_visual_one(name):
    seen = by_hand("last", [[0.0, 1.0, 3.0, 2.0, 9.0, 0.0]])
    scores = make_decoder_ranker(RankerSpec(name)).scores(seen)[0, 1:4]
    assert scores.argsort(descending=True).tolist() == [1, 2, 0]
    assert float(scores.sum()) < 0.01, "most of it goes to a word"


def test_only_words_about_the_picture_rate():
    embeds = torch.zeros(1, 6, WIDTH)
    embeds[0, [1, 2, 4], 0] = 3.0  # the first word is similar to two visual tokens
    rows = [[0.0] * 6, [0.0, 0.0, 0.0, 5.0, 0.0, 0.0], [0.0, 5.0, 0.0, 0.0, 0.0, 0.0]]
    seen = by_hand("text", rows, embeds)
    assert raters(seen).tolist() == [[False, True, False]]
    scores = make_decoder_ranker(RankerSpec("sparsevlm")).scores(seen)[0, 1:4]
    assert scores.argmax() == 2


def test_without_a_word_above_average_all_rate():
    seen = by_hand("text", [[0.0] * 6] * 3, torch.zeros(1, 6, WIDTH))
    assert raters(seen).tolist() == [[False, True, True]]


def test_fitprune_wants_question_and_picture_to_agree():
    rows = torch.zeros(6, 6)
    rows[4:, 1] = 4.0  # words attend to the first visual token, visual tokens to the second
    rows[1:4, 2] = 4.0
    scores = make_decoder_ranker(RankerSpec("fitprune")).scores(by_hand("all", rows.tolist()))
    first, second, third = scores[0, 1:4].tolist()
    assert first > second > third > 0


@pytest.mark.parametrize(("share", "best"), [(0.5, 1), (1, 0)])
def test_only_heads_that_attend_to_the_picture_count(share, best):
    """The first head attends to a visual token and a word, the second to two visual tokens."""
    seen = by_hand("text", [[0.0] * 6] * 3, torch.zeros(1, 6, WIDTH))
    weights = [[0.05, 0.40, 0.02, 0.02, 0.46, 0.05], [0.10, 0.02, 0.34, 0.32, 0.12, 0.10]]
    queries = torch.tensor(weights).log()[None, :, None].expand(-1, -1, 3, -1)
    keys = seen.keys.expand(-1, 2, -1, -1)
    ranker = make_decoder_ranker(RankerSpec("sparsevlm", (("heads", share),)))
    assert ranker.scores(replace(seen, queries=queries, keys=keys))[0, 1:4].argmax() == best


@pytest.mark.parametrize("heads", [0, 1.5, "half"])
def test_shares_of_heads_that_are_none(heads):
    with refuses(PolicyError, f"heads={heads!r}", 0, 1, "parameter"):
        make_decoder_ranker(RankerSpec("sparsevlm", (("heads", heads),)))


# Kinds and parameters


@pytest.mark.parametrize("name", DECODER_RANKERS)
def test_they_say_what_they_need(name):
    assert DECODER_ATTENTION in make_decoder_ranker(RankerSpec(name)).needs
    with refuses(PolicyError, name, "cdpruner, cls, divprune, "):
        make_ranker(RankerSpec(name))
    known = "heads" if name == "sparsevlm" else f"--ranker {name}"
    with refuses(PolicyError, f"{name}(k=2)", known):
        make_decoder_ranker(RankerSpec(name, (("k", 2),)))


def test_every_ranker_is_of_one_kind_and_has_its_layer():
    assert not RANKERS.keys() & DECODER_RANKERS.keys()
    assert {RankerSpec(name).layers_back for name in DECODER_RANKERS} == {0, 1}
    assert all(RankerSpec(name).inside for name in DECODER_RANKERS)
    assert not any(RankerSpec(name).inside for name in RANKERS)
    with refuses(UnknownNameError, "'fastvv'", "fastv, "):
        make_decoder_ranker(RankerSpec("fastvv"))


@pytest.mark.parametrize("back", [2, -1, "1", None])
def test_a_distance_that_no_schedule_knows_is_refused(back, monkeypatch):
    far = type("Far", (), {"layers_back": back})
    monkeypatch.setitem(DECODER_RANKERS, "far", far)
    with refuses(PolicyError, "far", "layers_back", 0, 1):
        _ = RankerSpec("far").layers_back
