"""FLOP conventions: closed forms by hand, live operations, padded batches, monotonicity."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from opsearch.costs.flops import CONVENTIONS, Flops, executed, flops, text_only_floor
from opsearch.costs.shape import CHECKPOINTS, Shape
from opsearch.errors import PolicyError, UnknownNameError
from opsearch.policy import builders
from opsearch.policy.counts import live
from opsearch.policy.policy import Policy
from tests.support.messages import refuses

VICUNA = CHECKPOINTS["llava-1.5-7b"].shape
QWEN = CHECKPOINTS["qwen2.5-vl-7b"].shape
TINY = Shape(layers=3, hidden=8, intermediate=12, heads=4, kv_heads=2, head_dim=3, vocab=11)
FULL = builders.identity(32)

as_defined = arrays(np.int64, (3, 3), elements=st.integers(0, 9))


def cost(policy: Policy, n_visual: int, n_other: int = 0, convention: str = "macs") -> int:
    return int(flops(policy.resolve(n_visual), n_visual, n_other, VICUNA, convention))


@pytest.mark.parametrize(
    ("policy", "defined", "alive"),
    [
        (builders.dop(32, 16, 16), (0.550, 0.510), (0.526, 0.484)),
        (builders.dop(32, 16, 32), (0.842, 0.802), (0.526, 0.484)),
        (builders.dop(32, 16, 8), (0.403, 0.364), (0.398, 0.356)),
        (builders.dop(32, 32, 16), (0.707, 0.708), None),
        (builders.dop(32, 16, 16, kv="stays"), (0.623, 0.583), (0.623, 0.583)),
        (builders.dop(32, 16, 16, "1/4"), (0.210, 0.133), None),
    ],
)
def test_as_defined_and_live(
    policy: Policy, defined: tuple[float, float], alive: tuple[float, float] | None
) -> None:
    exact = Flops(VICUNA)
    for i, n_visual in enumerate((576, 2880)):
        stock = exact.stock(n_visual, 65)
        assert round(cost(policy, n_visual, 65, "exact") / stock, 3) == defined[i]
        if alive is not None:
            of = exact.of(policy.resolve(n_visual), n_visual, 65)
            assert round(int(of) / stock, 3) == alive[i]


def test_even_the_full_model_has_dead_operations() -> None:
    alive = flops(FULL.live(576), 576, 65, VICUNA)
    assert round(100 * (1 - int(alive) / Flops(VICUNA).stock(576, 65)), 1) == 2.4


def test_linear_cost_of_one_token_in_one_layer() -> None:
    one_layer = replace(VICUNA, layers=1)
    names = ("q", "kv", "mlp")
    alone = {
        name: int(
            flops(np.array([[int(name == other) for other in names]]), 1, 0, one_layer, "macs")
        )
        for name in names
    }
    percent = {name: round(100 * value / sum(alone.values()), 1) for name, value in alone.items()}
    assert percent == {"q": 16.6, "kv": 16.6, "mlp": 66.8}


def test_share_of_scores_at_2880_visual_and_65_other_tokens() -> None:
    rows, per_row = 2880 + 65, cost(builders.depth(32, 1, 0, 0), 1)  # 2 d^2: Q and O of one token
    linear = rows * (2 * per_row + cost(builders.depth(32, 0, 0, 1), 1))
    layer = cost(FULL, 2880, 65) // 32
    assert round(100 * (layer - linear) / layer, 1) == 10.7


@pytest.mark.parametrize("name", ["llava-1.5-7b", "llava-next-13b"])
def test_exact_is_two_macs_and_one_row_of_lm_head_without_grouped_queries(name: str) -> None:
    shape = CHECKPOINTS[name].shape
    counts = builders.depth(shape.layers, 20, 9, 13, "1/3").resolve(576)
    two_macs = flops(counts, 576, 65, shape, "2macs")
    assert flops(counts, 576, 65, shape) == two_macs + 2 * shape.hidden * shape.vocab


def test_exact_by_hand_with_grouped_queries() -> None:
    counts = np.array([[3, 5, 2], [0, 1, 0], [5, 5, 5]])
    expected = 2 * 8 * 11
    for q, kv, mlp in counts + 4:
        expected += 4 * q * 8 * 12 + 4 * kv * 8 * 6 + 4 * q * kv * 12 + 6 * mlp * 8 * 12
    assert flops(counts, 5, 4, TINY) == expected


def test_keeping_keys_is_nearly_free_under_grouped_queries() -> None:
    def share(shape: Shape) -> float:
        half = shape.layers // 2
        gone, readable = (
            flops(builders.dop(shape.layers, half, half, kv=kv).resolve(1280), 1280, 45, shape)
            for kv in ("leaves", "stays")
        )
        return int(readable - gone) / Flops(shape).stock(1280, 45)

    assert share(QWEN) < 0.012
    assert share(VICUNA) > 0.07


def test_text_only_floor() -> None:
    assert text_only_floor(VICUNA, 0, 65) == 1
    n_text = flops(FULL.resolve(65), 65, 0, VICUNA)
    assert text_only_floor(VICUNA, 2880, 65) == int(n_text) / Flops(VICUNA).stock(2880, 65)
    assert 0.019 < text_only_floor(VICUNA, 2880, 65) < 0.021


def test_live_cost_of_the_identity_is_the_stock_model() -> None:
    for shape in (VICUNA, QWEN):
        counts = builders.identity(shape.layers).resolve(1280)
        almost = builders.dop(shape.layers, shape.layers, shape.layers - 1).resolve(1280)
        of = Flops(shape).of(np.stack([counts, almost]), 1280, 45)
        assert of[0] == Flops(shape).stock(1280, 45) == flops(counts, 1280, 45, shape)
        assert of[1] == flops(live(almost), 1280, 45, shape) < of[0]


def test_seven_billion_parameters_stay_far_from_overflow() -> None:
    stock = Flops(VICUNA).stock(2880, 135)
    d, m, rows = VICUNA.hidden, VICUNA.intermediate, 3015
    by_hand = 32 * (8 * rows * d * d + 4 * rows * rows * d + 6 * rows * d * m) + 2 * d * 32064
    assert stock == by_hand
    assert 100_000 * stock < np.iinfo(np.int64).max


def test_errors_name_the_value() -> None:
    with refuses(UnknownNameError, "convention", "'macs2'", "2macs, exact, fastv, macs"):
        flops(FULL.resolve(4), 4, 0, VICUNA, "macs2")
    with refuses(PolicyError, 576, 300, "resolve"):
        flops(FULL.resolve(576), 300, 0, VICUNA)


@settings(deadline=None)
@given(as_defined, as_defined, st.integers(0, 4), st.sampled_from(sorted(CONVENTIONS)))
def test_more_counts_never_cost_less(
    a: np.ndarray, b: np.ndarray, n_other: int, convention: str
) -> None:
    low, high = np.minimum(a, b), np.maximum(a, b)
    for of in (
        lambda counts: flops(counts, 9, n_other, TINY, convention),
        lambda counts: Flops(TINY, convention).of(counts, 9, n_other),
    ):
        assert of(low) <= of(high)
    if (low < high).any():
        assert flops(low, 9, n_other + 1, TINY, convention) < flops(
            high, 9, n_other + 1, TINY, convention
        )


@settings(deadline=None)
@given(as_defined, st.integers(0, 4))
def test_live_operations_cost_no_more_and_have_none_dead(counts: np.ndarray, n_other: int) -> None:
    once = live(counts)
    assert np.array_equal(live(once), once)
    assert Flops(TINY).of(counts, 9, n_other) <= flops(counts, 9, n_other, TINY)
    if not (counts == 9).all():
        assert Flops(TINY).of(counts, 9, n_other) == flops(once, 9, n_other, TINY)
        assert Flops(TINY).of(once, 9, n_other) == flops(once, 9, n_other, TINY)


@settings(deadline=None)
@given(arrays(np.int64, (2, 4, 3, 3), elements=st.integers(0, 9)))
def test_leading_dimensions_are_independent(counts: np.ndarray) -> None:
    counts[0, 0] = 9
    together = Flops(TINY).of(counts, 9, 2)
    assert together.shape == (2, 4)
    assert together.dtype == np.int64
    for index in np.ndindex(2, 4):
        assert together[index] == Flops(TINY).of(counts[index], 9, 2)


@settings(deadline=None)
@given(as_defined, st.integers(0, 4))
def test_a_batch_of_one_executes_its_cost(counts: np.ndarray, n_other: int) -> None:
    assert executed(counts[None], [9], [n_other], TINY) == flops(counts, 9, n_other, TINY)


@settings(deadline=None)
@given(as_defined, st.integers(0, 4), st.integers(1, 4))
def test_equal_samples_need_no_padding(counts: np.ndarray, n_other: int, batch: int) -> None:
    total = executed(np.stack([counts] * batch), [9] * batch, [n_other] * batch, TINY)
    assert total == batch * flops(counts, 9, n_other, TINY)


@settings(deadline=None)
@given(as_defined, as_defined, st.integers(0, 4), st.integers(0, 4))
def test_padding_only_adds(a: np.ndarray, b: np.ndarray, t_a: int, t_b: int) -> None:
    total = executed(np.stack([a, b]), [9, 9], [t_a, t_b], TINY)
    assert total >= flops(a, 9, t_a, TINY) + flops(b, 9, t_b, TINY)


def test_padded_batch_by_hand() -> None:
    one_layer = replace(TINY, layers=1)
    counts = np.array([[[3, 5, 2]], [[1, 8, 0]]])  # rows with 6 and 2 others: 9 11 8 and 3 10 2
    expected = 2 * (4 * 9 * 8 * 12 + 4 * 11 * 8 * 6 + 4 * 9 * 11 * 12)
    expected += 6 * (8 + 2) * 8 * 12 + 2 * 2 * 8 * 11
    assert executed(counts, [5, 8], [6, 2], one_layer) == expected


def test_the_stock_model_runs_its_mlp_on_pads() -> None:
    counts = np.stack([np.full((3, 3), 5), np.full((3, 3), 8)])
    longest = flops(counts[1], 8, 4, TINY)
    assert executed(counts, [5, 8], [4, 4], TINY) == 2 * longest


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_only_the_exact_convention_counts_the_widths_of_grouped_queries(convention: str) -> None:
    rule, hidden = CONVENTIONS[convention], TINY.hidden
    q_width, kv_width = (12, 6) if convention == "exact" else (hidden, hidden)
    queries, keys = np.array([[5, 0, 0]] * 3), np.array([[0, 5, 0]] * 3)
    nothing = flops(0 * queries, 5, 0, TINY, convention)
    assert flops(queries, 5, 0, TINY, convention) - nothing == (
        3 * 5 * rule.projections * hidden * q_width
    )
    assert flops(keys, 5, 0, TINY, convention) - nothing == (
        3 * 5 * rule.projections * hidden * kv_width
    )
    together = flops(queries + keys, 5, 0, TINY, convention) + nothing
    apart = flops(queries, 5, 0, TINY, convention) + flops(keys, 5, 0, TINY, convention)
    assert together - apart == 3 * 25 * rule.scores * q_width
