"""Accuracy of the shipped model, and the layers that each family of questions needs."""

import pytest

from opsearch.data.demo import MODEL_DIR
from opsearch.data.embedded import embedded
from training.batches import NAMES
from training.evaluate import Subject, accuracy, mean_accuracy, measure
from training.redundancy import KEPT, ending

LAYERS = 12
pytestmark = pytest.mark.slow


def test_every_family_is_answered_right_and_every_answer_ends():
    scores = measure(MODEL_DIR, 750)
    assert mean_accuracy(scores) >= 0.95
    assert min(score.accuracy for score in scores.values()) >= 0.8
    assert all(score.ended == 1 for score in scores.values())


def test_some_family_needs_updates_in_the_last_third_and_some_only_in_the_first_quarter():
    subject, items = Subject(MODEL_DIR), embedded("held-out", 450)
    whole = subject.answers(items)
    early, late = (
        subject.answers(items, ending("q and mlp", LAYERS, d))
        for d in (LAYERS // 4, 2 * LAYERS // 3)
    )

    def kept(name, answers):
        mine = [item for item in items if item.family == name]
        return accuracy(mine, answers) / accuracy(mine, whole)

    assert min(kept(name, late) for name in NAMES) < KEPT
    assert max(kept(name, early) for name in NAMES) >= KEPT
