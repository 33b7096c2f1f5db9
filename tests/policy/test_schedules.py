"""Schedules of recent methods equal tables written by hand."""

from fractions import Fraction

import numpy as np
import pytest

from opsearch.errors import PolicyError
from opsearch.policy import builders
from opsearch.policy.counts import KV, MLP, Q
from opsearch.policy.ranker import RankerSpec
from tests.support.messages import naming

CLS = RankerSpec("cls")


def shares(policy):
    """Shares in thousandths, the same for all modules of a layer."""
    assert all(q == kv == mlp for q, kv, mlp in policy.counts)
    return [int(1000 * q) for q, _, _ in policy.counts]


def test_vispco_falls_within_one_layer_and_ends_at_its_share():
    policy = builders.vispco(6, 2, "1/5", CLS)
    assert shares(policy) == [1000, 1000, 600, 200, 200, 200]
    assert policy.rankers == ((0, CLS),)


def test_a_sigmoid_has_half_of_the_tokens_in_its_middle():
    # 1 / (1 + exp(4 (i - 2) / 4)) for i = 0 to 3.
    assert shares(builders.sigmoid(4, "1/2", 4)) == [881, 731, 500, 269]
    assert shares(builders.sigmoid(2, -40, 32)) == [0, 0]
    assert shares(builders.sigmoid(2, 40, 32)) == [1000, 1000]


def test_a_late_pyramid_begins_and_ends_inside_the_decoder():
    # 1 - (j / 4)^2 for j = 0 to 3, from the second layer on.
    assert shares(builders.late_pyramid(7, 1, 5, CLS)) == [0, 1000, 938, 750, 438, 0, 0]
    with pytest.raises(PolicyError, match=naming("last=2", "first=2")):
        builders.late_pyramid(4, 2, 2)


def test_vskip_skips_attention_only():
    assert builders.vskip(3, 1).resolve(10).tolist() == [[10, 10, 10], [0, 10, 10], [0, 10, 10]]
    assert builders.vskip(3, 3).is_identity(10)


def test_operators_are_skipped_one_by_one():
    policy = builders.skip(3, {(0, "mlp"), (2, "q")})
    expected = np.full((3, 3), 10)
    expected[0, MLP] = expected[2, Q] = 0
    assert policy.resolve(10).tolist() == expected.tolist()
    assert (policy.resolve(10)[:, KV] == 10).all()
    for operator in ((3, "q"), (0, "kv")):
        with pytest.raises(PolicyError, match=naming(operator[0], operator[1])):
            builders.skip(3, {operator})


def test_the_layers_of_sparsevlm_move_with_the_first_one():
    published = builders.sparsevlm(32)
    assert builders.sparsevlm(32, first=3).counts == published.counts
    moved = builders.sparsevlm(32, first=5)
    assert [layer for layer, _ in moved.rankers] == [5, 9, 17]
    assert {count for (count, _, _) in moved.counts} == {
        Fraction(1),
        *(Fraction(n, 576) for n in (300, 200, 118)),
    }


def test_a_curve_has_a_share_for_each_layer():
    with pytest.raises(PolicyError, match=naming(2, 3)):
        builders.curve(3, (1, "1/2"))
