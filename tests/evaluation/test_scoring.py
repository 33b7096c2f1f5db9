"""Answers are scored as docs/evaluation.md says, whatever their case, spaces and Unicode form."""

import re
import unicodedata
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from opsearch.data.item import METRICS
from opsearch.evaluation.scoring import anls, levenshtein, normal, plain, relaxed, score, vqa

PAGE = Path(__file__).parents[2] / "docs" / "evaluation.md"
ROW = re.compile(rf"^\| (\S.*) \| (\S.*) \| ({'|'.join(METRICS)}) \| ([\d.]+) \|$", re.MULTILINE)
QUOTED = re.compile(r"`([^`]+)`(?: \u00d7 (\d+))?")


def quoted(cell):
    """The texts of a cell, with escapes for characters that a page does not show."""
    return [
        re.sub(r"\\u(\w{4})", lambda code: chr(int(code[1], 16)), text)
        for text, times in QUOTED.findall(cell)
        for _ in range(int(times or 1))
    ]


ROWS = ROW.findall(PAGE.read_text())
words = st.text(st.characters(categories=["L", "N", "P", "S", "Zs"]), max_size=12)
lists = st.lists(words, max_size=11)
letters = st.text("abcxyzéüßøñ АБЯя ΑΩσς 红色ありが", min_size=1, max_size=12)
metrics = st.sampled_from(METRICS)


@pytest.mark.parametrize(("text", "accepted", "metric", "points"), ROWS)
def test_the_table_of_examples(text, accepted, metric, points):
    given = quoted(text) or [""]
    assert round(score(given[0], quoted(accepted), metric), 2) == float(points)


def test_the_table_covers_all_metrics():
    assert {metric for _, _, metric, _ in ROWS} == set(METRICS)
    assert len(ROWS) > 35


@given(words, lists, metrics)
@example("", [""], "match")
@example("9" * 5000, ["1e999"], "relaxed")
@example("1e999", ["-1e-999"], "relaxed")
@example("\ud800", ["\ud800"], "anls")
def test_scores_are_between_0_and_1_and_an_empty_text_is_never_right(text, answers, metric):
    points = score(text, answers, metric)
    assert 0 <= points <= 1
    for empty in ("", "  ", "\n\u200b", "\ufeff"):
        assert score(empty, [*answers, empty, text], metric) == 0


@given(words, metrics)
@example("the", "match")
@example(".", "vqa")
@example("-", "anls")
@example("%", "relaxed")
def test_a_text_equals_itself(text, metric):
    assume(plain(text))
    assert score(text, [text], metric) == 1


@given(letters, letters, st.sampled_from(METRICS))
def test_case_spaces_and_unicode_forms_do_not_count(text, answer, metric):
    assume(plain(text))
    points = score(text, [answer], metric)
    variants = [text.upper(), f"\n {text}\t", text.replace(" ", "\u00a0 ")]
    variants += [unicodedata.normalize(form, text) for form in ("NFC", "NFD", "NFKC", "NFKD")]
    for variant in variants:
        assert score(variant, [answer], metric) == points
        assert score(answer, [variant], metric) == score(answer, [text], metric)


@given(letters, letters, st.sampled_from([".", "!", "?", "。", "\uff01", " .", "…", "؟", ";"]))
def test_punctuation_at_the_end_does_not_count(text, answer, mark):
    assume(plain(text))
    assert score(text + mark, [answer]) == score(text, [answer])


@given(words)
def test_the_normal_form_is_its_own_normal_form(text):
    once = normal(text)
    assert bool(once) == bool(plain(text))
    # A contraction or number may first appear where punctuation was left out.
    assert normal(normal(once)) == normal(normal(normal(once)))


@given(st.integers(0, 12), st.integers(0, 12))
def test_vqa_is_the_mean_over_leaving_out_each_annotator(agreeing, others):
    answers = ["red"] * agreeing + ["pink"] * others
    if len(answers) <= 3:
        wanted = agreeing / max(1, len(answers))
    else:
        left = [answers[:i] + answers[i + 1 :] for i in range(len(answers))]
        wanted = sum(min(1, each.count("red") / 3) for each in left) / len(answers)
    assert vqa("Red.", answers) == pytest.approx(wanted)


def test_vqa_of_ten_annotators_is_the_published_scale():
    scale = [vqa("red", ["red"] * k + ["pink"] * (10 - k)) for k in range(6)]
    assert scale == pytest.approx([0, 0.3, 0.6, 0.9, 1, 1])


short = st.text("ab c", max_size=6)


@given(short, short, short)
def test_the_edit_distance_is_a_metric(a, b, c):
    assert levenshtein(a, b) == levenshtein(b, a)
    assert (levenshtein(a, b) == 0) == (a == b)
    assert levenshtein(a, c) <= levenshtein(a, b) + levenshtein(b, c)
    assert abs(len(a) - len(b)) <= levenshtein(a, b) <= max(len(a), len(b))
    assert levenshtein("kitten", "sitting") == 3


@given(words, words, lists)
def test_anls_is_symmetric_and_takes_the_closest_answer(text, other, more):
    assert anls(text, [other]) == anls(other, [text])
    assert anls(text, [other]) == 0 or 0.5 < anls(text, [other]) <= 1
    assert anls(text, [other, *more]) >= anls(text, [other])


def test_anls_counts_half_as_different():
    """DocVQA scores 0 from a distance of one half on."""
    assert anls("ab", ["ax"]) == 0
    assert anls("abc", ["abx"]) == pytest.approx(2 / 3)


numbers = st.decimals(-1000, 1000, allow_nan=False, places=3).map(str)


@given(numbers, numbers, *[st.decimals(0, 2, allow_nan=False)] * 2)
def test_relaxed_is_monotone_in_the_tolerance(text, answer, one, other):
    low, high = sorted((one, other))
    assert relaxed(text, [answer], low) <= relaxed(text, [answer], high)
    assert relaxed(text, [text], low) == 1
    wanted = abs(Decimal(text) - Decimal(answer)) <= low * abs(Decimal(answer))
    assert relaxed(text, [answer], low) == wanted


@pytest.mark.parametrize("text", ["nan", "inf", "1_000", "--5", "5%%", "1e9999", "0x10", "."])
def test_relaxed_takes_only_plain_numbers_for_numbers(text):
    assert relaxed(text, ["1000"]) == 0
    assert relaxed("1000", [text]) == 0
