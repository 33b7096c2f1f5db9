"""Scores are those of lmms-eval's own functions, but for the departures that the page names."""

import random

import pytest
from lmms_eval.api.metrics import anls as anls_of_lmms
from lmms_eval.tasks._task_utils.vqa_eval_metric import EvalAIAnswerProcessor
from lmms_eval.tasks.chartqa.utils import relaxed_correctness
from lmms_eval.tasks.textvqa.utils import textvqa_process_results

from opsearch.evaluation.scoring import score

TEXT = """
a an the red Red car CAR don't dont isnt isn't what's none zero two 2 ten 10 5% 3.5 café 红色
t-shirt x/y (left) left, right! U.S. p.m. 1,000 1000 100 #1 12:30 7up $5
"""
WORDS = TEXT.split()
DRAW = random.Random(0)


def drawn(count, most, vocabulary=WORDS):
    """Texts of up to `most` words."""
    return [
        " ".join(DRAW.choices(vocabulary, k=DRAW.randint(1, most))).strip() for _ in range(count)
    ]


def is_lost(text):
    """Whether the evaluation of VQA leaves nothing of a text."""
    return not EvalAIAnswerProcessor()(text)


def test_texts_match_where_the_forms_of_vqa_are_equal():
    process = EvalAIAnswerProcessor()
    texts = [text for text in drawn(1500, 3) if not is_lost(text)]
    equal = 0
    for text, other in zip(texts, DRAW.sample(texts, len(texts)), strict=True):
        for accepted in (other, text.upper(), f"the {text}", f"{text}."):
            wanted = process(text) == process(accepted)
            assert score(text, [accepted]) == wanted, (text, accepted)
            equal += wanted
    assert 1000 < equal < 3 * len(texts) + 1000


def test_vqa_of_ten_annotators():
    texts = [text for text in drawn(200, 1) if not is_lost(text)]
    scores = set()
    for text in texts:
        answers = DRAW.choices([text, *DRAW.sample(texts, 2)], k=DRAW.randint(4, 10))
        doc = {"answers": list(answers), "question_id": 1}
        wanted = textvqa_process_results(doc, [text])["exact_match"]
        assert score(text, answers, "vqa") == pytest.approx(wanted)
        scores.add(round(wanted, 3))
    assert len(scores) > 5


def test_anls():
    scores = set()
    for text in drawn(300, 4, ["main", "Street", "street", "high", "road", "no", "5"]):
        answers = drawn(2, 4, ["main", "street", "streets", "high", "rode", "no"])
        wanted = anls_of_lmms(answers, [text])["anls"]
        # A distance of exactly one half is different by DocVQA, and similar by lmms-eval.
        assert score(text, answers, "anls") == pytest.approx(0 if wanted == 0.5 else wanted)
        scores.add(round(wanted, 3))
    assert len(scores) > 20


def test_relaxed():
    tokens = ["0.5", "10", "10.5", "9.6", "12%", "0.12", "-3", "-3.1", "Yes", "no", "5e2", "510"]
    pairs = [(text, answer) for text in tokens for answer in tokens]
    pairs += [(str(DRAW.uniform(9, 11)), "10") for _ in range(200)]
    for text, answer in pairs:
        assert score(text, [answer], "relaxed") == relaxed_correctness(text, answer)


@pytest.mark.parametrize(
    ("text", "accepted", "here", "there"),
    [
        ("1,2", "12", 0, 1),
        ("-5", "5", 0, 1),
        ("3.0", "3", 1, 0),
        ("the", "a", 0, 1),
        ("whats", "what's", 1, 0),
        ("left,right", "leftright", 0, 1),
        ("\u2018red\u2019", "red", 1, 0),
        ("cafe\u0301", "café", 1, 0),
    ],
)
def test_departures_from_vqa(text, accepted, here, there):
    process = EvalAIAnswerProcessor()
    assert score(text, [accepted]) == here
    assert (process(text) == process(accepted)) == there
