"""Finer shares are the largest within the budget, and stay in the form of the policy."""

from fractions import Fraction

from hypothesis import given, settings
from hypothesis import strategies as st

from opsearch.policy import builders
from opsearch.policy.finer import finer_shares
from opsearch.policy.ranker import RankerSpec

LAYERS = 4
SHARE = st.integers(1, 9).map(lambda tenth: Fraction(tenth, 10))


def _cost(policy):
    return sum(sum(triple) for triple in policy.counts)


@settings(max_examples=60)
@given(SHARE, SHARE, st.fractions(0, 3))
def test_shares_are_the_largest_in_thousandths(first, second, slack):
    first, second = max(first, second), min(first, second)
    policy = builders.stages(LAYERS, {0: 1, 1: first, 3: second}, RankerSpec("cls"))
    limit = _cost(policy) + slack
    for finer in finer_shares(policy, lambda p: _cost(p) <= limit):
        assert _cost(policy) < _cost(finer) <= limit
        assert finer.rankers == policy.rankers
        for old, new in zip(policy.counts, finer.counts, strict=True):
            assert all(a <= b <= 1 for a, b in zip(old, new, strict=True))
            assert all(
                b == a or b.limit_denominator(1000) == b for a, b in zip(old, new, strict=True)
            )


def test_a_policy_between_two_baselines_reaches_the_finer_one():
    policy = builders.stages(LAYERS, {0: 1, 2: "1/5"}, RankerSpec("cls"))
    goal = builders.stages(LAYERS, {0: 1, 2: "207/1000"}, RankerSpec("cls"))
    (finer,) = finer_shares(policy, lambda p: _cost(p) <= _cost(goal) + Fraction(1, 2000))
    assert finer.counts == goal.counts


def test_what_has_no_share_or_no_room_has_no_finer_one():
    policy = builders.stages(LAYERS, {0: 1, 2: "1/5"})
    assert finer_shares(policy, lambda p: _cost(p) <= _cost(policy)) == []
    assert finer_shares(builders.vtw(LAYERS, 2), lambda p: True) == []
