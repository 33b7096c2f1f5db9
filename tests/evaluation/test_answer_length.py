"""Answers may be as long as their data say, whatever the batch; cut ones are reported."""

import copy
import re
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from opsearch.data.item import METRICS, Item
from opsearch.errors import DataError
from opsearch.evaluation.answers import answer
from opsearch.measure.storage.records import StoredAnswer
from opsearch.measure.storage.store import Store
from opsearch.models.answer_length import Length, length, token_limit
from opsearch.models.encoding import encode
from opsearch.models.loading import load_config, load_processor
from opsearch.policy import builders
from opsearch.report.cut_answers import describe_cut
from tests.measure.demo import EOS, LAYERS, model, samples
from tests.support.messages import naming, refuses

PROCESSOR = load_processor("demo")
THREE = PROCESSOR.tokenizer.convert_tokens_to_ids("3")
NOISE = (12, 1, 10)  # seeds
LONG = (41, 30, 6)
HALF = builders.vtw(LAYERS, 6)


def changed(**options):
    """The embedded model with other settings of generation."""
    found = copy.copy(model())
    found.generation_config = copy.deepcopy(model().generation_config)
    for name, value in options.items():
        setattr(found.generation_config, name, value)
    return found


@pytest.fixture(scope="module")
def endless():
    """A model that goes on up to the limit."""
    return changed(eos_token_id=None, suppress_tokens=[EOS])


@pytest.fixture(scope="module")
def chatty():
    """A model that ends its answers to the noise after the numbers of tokens in LONG."""
    return changed(eos_token_id=THREE, suppress_tokens=[EOS])


def _noise(seed):
    """A noisy picture; those of Pillow depend on what the process drew before."""
    pixels = np.random.default_rng(seed).normal(128, 60 + seed % 5, (40, 40))
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).convert("RGB")


def accepting(sample, *answers):
    return replace(sample, item=replace(sample.item, answers=answers))


@pytest.fixture(scope="module")
def noise():
    """Three samples of equal shape."""
    pictures = [_noise(seed) for seed in NOISE]
    question = "what color is the ring?"
    items = [Item(str(i), question, ("x",), (each,)) for i, each in enumerate(pictures)]
    return encode(items, PROCESSOR, load_config("demo"))


def test_a_long_answer_that_the_data_hold_is_right(chatty, noise):
    """A fixed limit of 16 tokens cut it, so that no accepted answer could be met."""
    said = answer(chatty, PROCESSOR, noise, answer_tokens=64)
    assert said.lengths == tuple(Length(tokens, cut=False) for tokens in LONG)
    right = [accepting(each, text) for each, text in zip(noise, said.texts, strict=True)]
    found = answer(chatty, PROCESSOR, right)
    assert (found.texts, found.scores.tolist(), found.lengths) == (
        said.texts,
        [1.0] * 3,
        said.lengths,
    )
    short = answer(chatty, PROCESSOR, right, answer_tokens=16)
    assert short.scores.tolist() == [0.0, 0.0, 1.0]
    assert short.lengths == (Length(16, cut=True), Length(16, cut=True), said.lengths[2])


def test_a_limit_does_not_depend_on_the_batch(endless, noise):
    """Samples of equal shape are generated together, up to the longest limit of them."""
    wanted = [
        accepting(each, "red", " ".join(["red"] * count))
        for each, count in zip(noise, (10, 3, 16), strict=True)
    ]
    for policy in (None, HALF):
        together = answer(endless, PROCESSOR, wanted, policy)
        assert together.lengths == tuple(Length(limit, cut=True) for limit in (23, 16, 32))
        for i, each in enumerate(wanted):
            alone = answer(endless, PROCESSOR, [each], policy)
            assert (alone.texts[0], alone.lengths[0]) == (together.texts[i], together.lengths[i])


@settings(max_examples=30)
@given(st.lists(st.lists(st.sampled_from(["red", "cyan", "7"]), max_size=50), min_size=1))
def test_the_limit_is_that_of_the_longest_answer_with_a_margin(answers):
    longest = max(map(len, answers))
    texts = [" ".join(words) for words in answers]
    limit = token_limit(PROCESSOR.tokenizer, texts)
    assert limit == max(16, int(1.5 * longest) + 8)
    assert token_limit(PROCESSOR.tokenizer, [*texts, "red"]) >= limit
    assert token_limit(PROCESSOR.tokenizer, texts, 5) == 5


def test_half_of_a_character_in_the_data_has_a_length():
    assert token_limit(PROCESSOR.tokenizer, ["\ud800"]) == 16


@pytest.mark.parametrize(
    ("tokens", "limit", "found"),
    [
        ([5, 6, EOS, 0, 0], 4, Length(3, cut=False)),
        ([5, 6, EOS], 3, Length(3, cut=False)),
        ([5, 6, EOS], 2, Length(2, cut=True)),
        ([5, 6], 4, Length(2, cut=False)),  # ended by a rule other than an end token
        ([5, 6, 7, 8], 3, Length(3, cut=True)),
        ([EOS, EOS], 1, Length(1, cut=False)),
    ],
)
def test_an_answer_ends_at_its_end_token_or_is_cut(tokens, limit, found):
    assert length(tokens, limit, frozenset({EOS})) == found


@pytest.fixture
def store(tmp_path):
    with Store(tmp_path / "measurements.db", {"model": "demo"}) as opened:
        yield opened


def refusing(monkeypatch):
    """Make any further generation fail."""

    def generate(*args):
        raise AssertionError("an answer was generated again")

    monkeypatch.setattr("opsearch.evaluation.answers.greedy", generate)


def test_only_answers_that_another_limit_changes_are_generated_again(
    store, chatty, noise, monkeypatch
):
    """A cut answer is valid at its limit only, a whole one at every limit that it fits."""

    def lengths(**options):
        found = answer(chatty, PROCESSOR, noise, store=store, **options)
        return [(each.tokens, each.cut) for each in found.lengths], found.texts

    first, texts = lengths()
    assert first == [(16, True), (16, True), (6, False)]
    whole, longer = lengths(answer_tokens=40)
    assert whole == [(40, True), (30, False), (6, False)]
    assert [new.startswith(old) for new, old in zip(longer, texts, strict=True)] == [True] * 3
    with monkeypatch.context() as patched:
        refusing(patched)
        assert lengths(answer_tokens=40) == (whole, longer)
        with pytest.raises(AssertionError):
            lengths()
    assert lengths() == (first, texts)


def test_an_unknown_metric_is_refused_before_any_answer(monkeypatch):
    (sample,) = samples(1)
    refusing(monkeypatch)
    other = replace(sample, item=replace(sample.item, metric="bleu"))
    with refuses(DataError, sample.item.id, "'bleu'", *METRICS):
        answer(model(), PROCESSOR, [other])


def test_every_metric_scores_answers():
    """A text that is close to the model's counts by some of them."""
    (sample,) = samples(1)
    said = answer(model(), PROCESSOR, [sample]).texts[0]
    close = accepting(sample, said + "s", f"the {said}")
    scored = {
        metric: answer(
            model(), PROCESSOR, [replace(close, item=replace(close.item, metric=metric))]
        ).scores[0]
        for metric in METRICS
    }
    similar = 1 - 1 / (len(said) + 1)
    assert scored == pytest.approx({"match": 1, "vqa": 0.5, "anls": similar, "relaxed": 1})


def test_stored_texts_are_scored_by_the_answers_of_today(store, monkeypatch):
    (sample,) = samples(1)
    first = answer(model(), PROCESSOR, [sample], store=store)
    assert first.scores.tolist() == [1.0]
    refusing(monkeypatch)
    other = accepting(sample, "no such word")
    assert answer(model(), PROCESSOR, [other], store=store).scores.tolist() == [0.0]
    key = builders.identity(LAYERS).canonical(sample.n_visual)
    assert store.answers([key])[key, sample.digest].score == 0.0


def test_an_answer_of_unknown_length_is_generated_again(store):
    (sample,) = samples(1)
    key = builders.identity(LAYERS).canonical(sample.n_visual)
    store.add_answers([StoredAnswer(key, sample.digest, "of format 3", 0.0)])
    found = answer(model(), PROCESSOR, [sample], store=store)
    assert found.texts == answer(model(), PROCESSOR, [sample]).texts


def test_samples_that_differ_in_their_answers_only_have_limits_and_scores_of_their_own(
    store, endless, noise
):
    short, long = accepting(noise[0], "red"), accepting(noise[0], " ".join(["red"] * 20))
    for _ in range(2):
        found = answer(endless, PROCESSOR, [short, long], store=store)
        assert [each.tokens for each in found.lengths] == [16, 38]
        assert found.texts[1].startswith(found.texts[0])


@pytest.mark.parametrize(
    ("cut", "parts"),
    [
        ({"the original": [0, 0]}, ()),
        ({"the original": [16, 0]}, ("1 of 2", "the original", 16, "--answer-tokens 128")),
        ({"the original": [100, 16], "x": [0, 44]}, ("2 of 2", "1 of x", "16 to 100", 256)),
        ({"a": [0, 0], "b": [16, 0], "c": [16, 16], "d": [0, 16]}, ("1 of 2", "b", "2 of 2 other")),
    ],
)
def test_the_sentence_on_cut_answers(cut, parts):
    lengths = {
        name: [Length(each or 3, cut=each > 0) for each in limits] for name, limits in cut.items()
    }
    said = describe_cut(lengths)
    assert re.search(naming(*parts), said)
    assert bool(said) == bool(parts)


def test_the_advice_cuts_no_answer_that_was_whole():
    said = describe_cut({"the original": [Length(16, cut=True), Length(300, cut=False)]})
    assert int(said.split("--answer-tokens ")[1].split()[0]) >= 300
