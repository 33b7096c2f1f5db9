"""Studies of policy sets on tables whose best answers are known."""

import numpy as np
import pytest
from safetensors.numpy import save_file

from opsearch.adaptive.choose import choose_set
from opsearch.adaptive.measured import ORIGINAL, Measured
from opsearch.adaptive.table import Part, Table
from opsearch.analysis import adaptive, adaptive_study
from opsearch.errors import OpsearchError, RunFolderError
from tests.support.messages import refuses

COSTS = np.array([0.4, 1.0, 0.1, 0.7])
"""Of the one policy, the original, and two of other budgets."""
KINDS = ("easy", "middling", "hard")
LOSSES = np.array([[0.02, 0, 0.03, 0.01], [0.3, 0, 0.5, 0.05], [0.8, 0, 0.9, 0.1]])


def a_part(samples=300, seed=0, scored=True):
    """Features tell the kind; a lost answer has a score of 0."""
    draw = np.random.default_rng(seed)
    kinds = draw.integers(0, 3, samples)
    features = draw.standard_normal((samples, 5)).astype(np.float32)
    features[:, 1] += 8 * kinds
    loss = LOSSES[kinds] * draw.uniform(0.9, 1.1, (samples, 1))
    scores = (draw.random((samples, 1)) > loss).astype(float) if scored else None
    table = Table(features, loss, np.tile(COSTS, (samples, 1)))
    return Part(table, loss / (1 - np.minimum(loss, 0.99)), tuple(KINDS[k] for k in kinds), scores)


def measured(scored=True, limit=0.4):
    budgets = ("40%", "", "10%", "70%")
    return Measured(limit, budgets, a_part(scored=scored), a_part(200, 1, scored))


def test_more_policies_lose_less_down_to_what_is_possible():
    found = adaptive_study.by_number(measured())
    assert found["policies"].tolist() == [1, 2, 3, 4]
    assert found["chosen"].iloc[0] == 1
    assert (found["chosen"] <= found["policies"]).all()
    assert found["possible"].is_monotonic_decreasing
    assert (found["bound"] <= found["possible"] + 1e-12).all()
    assert found["kl"].iloc[-1] < 0.6 * found["kl"].iloc[0]
    assert (found["regret"] >= 0).all()
    assert found["right"].iloc[-1] > 75, "the features tell the kinds apart; chance is 25"


def test_one_policy_is_always_right():
    one = adaptive_study.by_number(measured()).iloc[0]
    assert one["right"] == 100
    assert one["regret"] == 0
    assert one["kl"] == one["best_kl"]


def test_a_kind_that_the_set_does_not_know_is_judged_without_it():
    facts = measured()
    found = adaptive_study.shifted(facts).set_index("kind")
    assert set(found.index) == set(KINDS)
    assert found["samples"].sum() == 200
    part = facts.heldout
    known = choose_set(facts.calibration.table, 0.4, 4).chosen(part.table)
    for kind in KINDS:
        rows = np.flatnonzero(np.array(part.kinds) == kind)
        others = np.array(facts.calibration.kinds) != kind
        without = choose_set(facts.calibration.table.on(others), 0.4, 4).chosen(part.table)
        assert found.loc[kind, "kl_all"] == pytest.approx(part.kl[rows, known[rows]].mean())
        assert found.loc[kind, "kl"] == pytest.approx(part.kl[rows, without[rows]].mean())
        assert found.loc[kind, "cost"] == pytest.approx(100 * COSTS[without[rows]].mean())


def test_limits_are_above_the_loss_and_hold():
    found = adaptive_study.limits(measured())
    assert found["method"].tolist()[0] == "one policy"
    assert (found["limit"] > found["lost"]).all()
    assert (found["third"] > found["limit"]).all(), "fewer samples say less"
    assert (found["held"] >= 95).all()


def test_relative_averages_and_lost_answers_by_hand():
    scores = np.array([[1, 1, 0, 1], [0, 1, 0, 0], [0.5, 0, 0, 1.0]])
    table = Table(np.zeros((3, 1), np.float32), 0 * scores, scores)
    part = Part(table, scores, ("a", "a", "b"), scores)
    choice = np.array([0, 0, 0])
    assert adaptive.relative(part, choice) == pytest.approx(50), "without b: the original is 0"
    assert adaptive.lost(part, choice).tolist() == [0, 1, 0]
    assert adaptive.relative(part, np.full(3, ORIGINAL)) == 100


def test_everything_comes_back_from_the_file(tmp_path):
    saved = measured()
    saved.save(tmp_path)
    read = Measured.load(tmp_path)
    assert (read.limit, read.budgets) == (saved.limit, saved.budgets)
    for one, other in ((saved.calibration, read.calibration), (saved.heldout, read.heldout)):
        assert one.kinds == other.kinds
        for name in ("features", "loss", "cost"):
            assert np.array_equal(getattr(one.table, name), getattr(other.table, name))
        assert np.array_equal(one.kl, other.kl)
        assert np.array_equal(one.scores, other.scores)
    measured(scored=False).save(tmp_path)
    assert Measured.load(tmp_path).heldout.scores is None


def test_without_answers_kl_is_drawn():
    facts = measured(scored=False)
    found = adaptive_study.tables(facts)
    assert "limits.csv" not in found
    figure = adaptive_study.draw(found["sets.csv"], found["kinds_left_out.csv"])
    assert "KL" in figure.axes[0].get_ylabel()
    assert "KL of" in adaptive_study.describe(facts, found)


@pytest.mark.parametrize("content", [None, b"", b"1234567890", "other"])
def test_files_of_another_kind_get_a_sentence(tmp_path, content):
    file = tmp_path / "measured.safetensors"
    if content == "other":
        save_file({"weights": np.ones(3)}, file)
    elif content is not None:
        file.write_bytes(content)
    with refuses(RunFolderError, file, "opsearch adapt"):
        Measured.load(tmp_path)


def test_few_kinds_or_no_held_out_samples_are_refused():
    facts = measured()
    one_kind = Part(facts.heldout.table, facts.heldout.kl, ("easy",) * 200, facts.heldout.scores)
    with refuses(OpsearchError, "three"):
        adaptive_study.shifted(Measured(0.4, facts.budgets, facts.calibration, one_kind))
    none = np.zeros(200, bool)
    empty = Part(facts.heldout.table.on(none), facts.heldout.kl[none], ())
    with refuses(OpsearchError, "--heldout"):
        adaptive_study.tables(Measured(0.4, facts.budgets, facts.calibration, empty))
