"""Costs of any size are exact: compared with plain loops over Python integers."""

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from opsearch.costs.exact import INT64_MAX, integers, packed, ratios, weighted_sum, within
from opsearch.costs.flops import CONVENTIONS, Flops, executed, flops
from opsearch.costs.kv import KVBytes
from opsearch.costs.shape import Shape
from opsearch.policy.counts import live
from opsearch.testing.example_problems import VAST

EDGES = [0, 1, 2**31, 2**32 - 1, 2**32, 2**53, 2**62, INT64_MAX]
EDGE = st.sampled_from([sign * edge for edge in EDGES for sign in (1, -1)])
ANY = EDGE | st.integers(-INT64_MAX, INT64_MAX)
WEIGHT = st.sampled_from([0, 1, 10_000, 2**31 - 1, 2**31, 2**40]) | st.integers(0, 10_000)


@given(st.lists(st.tuples(WEIGHT, st.lists(ANY, min_size=3, max_size=3)), max_size=6))
def test_weighted_sums_never_wrap(parts):
    arrays = [(weight, np.array(row, np.int64)) for weight, row in parts]
    found = weighted_sum(iter(arrays), (3,))
    expected = [sum(weight * row[k] for weight, row in parts) for k in range(3)]
    assert found.tolist() == expected
    assert all(isinstance(value, int) for value in found.tolist())
    beyond = [(weight, values.astype(object) * 3**50) for weight, values in arrays]
    assert weighted_sum(beyond, (3,)).tolist() == [value * 3**50 for value in expected]


def test_sums_within_64_bits_stay_int64():
    values = np.array([[1, -2], [3, 4]], np.int32)
    found = weighted_sum([(5, values), (1, values)], (2, 2))
    assert found.dtype == np.int64
    assert found.tolist() == [[6, -12], [18, 24]]
    assert weighted_sum([], (2,)).tolist() == [0, 0]


@pytest.mark.parametrize("values", [np.array([1.5]), np.array([1], np.uint64)])
def test_sums_of_what_may_be_no_integer_are_refused(values):
    with pytest.raises(TypeError):
        weighted_sum([(1, values)], (1,))


@given(st.lists(ANY | st.integers(), max_size=5))
def test_integers_are_neither_unsigned_nor_floats(values):
    found = integers(values)
    assert found.tolist() == values
    assert found.dtype in (np.int64, object)


@given(st.lists(ANY, min_size=1, max_size=4), st.integers(1, 2**70))
def test_ratios_are_exact_up_to_rounding(values, divisor):
    exact = [float(Fraction(value, divisor)) for value in values]
    assert ratios(np.array(values, object), divisor).tolist() == exact
    np.testing.assert_allclose(ratios(np.array(values, np.int64), divisor), exact, rtol=1e-15)


def test_arrays_are_only_widened_beyond_the_bound():
    values = np.array([1, 2])
    assert within(values, INT64_MAX) is values
    assert within(values, INT64_MAX + 1).dtype == object


ROW = st.tuples(*[st.integers(-1, 3) | st.sampled_from([10**5, 2**31, 2**40])] * 4)


@given(st.lists(ROW, min_size=1, max_size=8))
def test_packed_rows_keep_their_order(rows):
    numbers = packed(*np.array(rows, np.int64).T).tolist()
    assert all(
        (a < b) == (x < y) and (a == b) == (x == y)
        for a, x in zip(numbers, rows, strict=True)
        for b, y in zip(numbers, rows, strict=True)
    )


@st.composite
def cases(draw):
    """A shape up to several times 400 B weights, and counts of a sample of up to 4e9 tokens."""
    heads = draw(st.sampled_from([1, 4, 128, 1024]))
    shape = Shape(
        layers=draw(st.integers(1, 4)),
        hidden=draw(st.sampled_from([1, 4096, 16384, 65536])),
        intermediate=draw(st.sampled_from([3, 53248, 400_001])),
        heads=heads,
        kv_heads=draw(st.sampled_from([1, heads])),
        head_dim=draw(st.sampled_from([1, 128])),
        vocab=draw(st.sampled_from([1, 128256])),
    )
    n_visual = draw(st.sampled_from([0, 1, 576, 100_000, 2**26, 2**32]))
    count = st.integers(0, n_visual) | st.just(n_visual)
    rows = draw(st.lists(st.tuples(count, count, count), min_size=shape.layers))
    counts = np.array(rows[: shape.layers], np.int64)
    return shape, counts, n_visual, draw(st.sampled_from([0, 1, 10_000, 2**31]))


def reference(shape, counts, n_other, convention):
    """Return the FLOPs by a loop over Python integers."""
    rule = CONVENTIONS[convention]
    q_width = shape.heads * shape.head_dim if rule.real_widths else shape.hidden
    kv_width = shape.kv_heads * shape.head_dim if rule.real_widths else shape.hidden
    total = rule.lm_head * shape.hidden * shape.vocab
    for q, kv, mlp in (counts + n_other).tolist():
        total += rule.projections * shape.hidden * (q_width * q + kv_width * kv)
        total += rule.scores * q_width * q * kv
        total += rule.mlp * shape.hidden * shape.intermediate * mlp
    return total


@given(cases(), st.sampled_from(sorted(CONVENTIONS)))
def test_flops_are_those_of_a_loop(case, convention):
    shape, counts, n_visual, n_other = case
    alone = flops(counts, n_visual, n_other, shape, convention)
    expected = reference(shape, counts, n_other, convention)
    assert int(alone) == expected
    both = np.stack([counts, np.zeros_like(counts)])
    found = flops(both, n_visual, n_other, shape, convention).tolist()
    assert found == [expected, reference(shape, np.zeros_like(counts), n_other, convention)]


@given(cases())
def test_costs_are_those_of_a_loop(case):
    shape, counts, n_visual, n_other = case
    everything = np.full_like(counts, n_visual)
    counted = counts if (counts == n_visual).all() else live(counts)
    cost = Flops(shape)
    assert int(cost.of(counts, n_visual, n_other)) == reference(shape, counted, n_other, "exact")
    assert cost.stock(n_visual, n_other) == reference(shape, everything, n_other, "exact")
    kept, rows = KVBytes(shape), sum((counts[:, 1] + n_other).tolist())
    each = 2 * shape.kv_bytes_per_element * shape.kv_heads * shape.head_dim
    assert int(kept.of(counts, n_visual, n_other)) == each * rows
    assert kept.stock(n_visual, n_other) == each * shape.layers * (n_visual + n_other)


@given(cases(), st.integers(1, 1000))
def test_equal_samples_of_a_batch_execute_so_many_times_the_flops_of_one(case, batch):
    shape, counts, n_visual, n_other = case
    together = executed(np.stack([counts] * batch), [n_visual] * batch, [n_other] * batch, shape)
    assert together == batch * reference(shape, counts, n_other, "exact")


def test_one_sample_of_a_decoder_of_400_b_weights():
    assert 400e9 < VAST.weights < 420e9
    assert 1e17 < Flops(VAST).stock(100_000, 10_000) < 2**63
    assert Flops(replace(VAST, layers=126 * 60)).stock(100_000, 10_000) > 2**63
