"""KV-cache bytes against published cache sizes."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from opsearch.costs.kv import KVBytes
from opsearch.costs.shape import CHECKPOINTS
from opsearch.policy import builders
from opsearch.policy.counts import live
from opsearch.policy.policy import Policy

LLAVA = KVBytes(CHECKPOINTS["llava-next-7b"].shape)
QWEN = KVBytes(CHECKPOINTS["qwen2.5-vl-7b"].shape)
MIB = 2**20


def test_one_token_takes_half_a_mebibyte() -> None:
    assert LLAVA.stock(1, 0) == 524_288


@pytest.mark.parametrize(("tokens", "mib"), [(2880, 1440.0), (320, 160.0)])
def test_autoprune(tokens: int, mib: float) -> None:
    counts = builders.tokens(32, 1).resolve(tokens)
    assert LLAVA.of(counts, tokens, 0) == LLAVA.stock(tokens, 0) == mib * MIB


@pytest.mark.parametrize(("tokens", "megabytes"), [(2884, 1512.0), (320, 167.8)])
def test_are_we_solving_the_right_problem(tokens: int, megabytes: float) -> None:
    assert round(LLAVA.stock(tokens, 0) / 1e6, 1) == megabytes


def test_grouped_queries_share_keys_and_values() -> None:
    assert QWEN.stock(1, 0) == 2 * 2 * 4 * 128 * 28


@pytest.mark.parametrize(
    ("policy", "kept_layers"),
    [
        (builders.dop(32, 12, 20), 12),
        (builders.dop(32, 12, 20, kv="stays"), 32),
        (builders.vtw(32, 15), 15),
        (builders.shortv(32, range(13, 32)), 32),
        (builders.depth(32, 4, 21, 9), 21),
    ],
)
def test_who_saves_cache(policy: Policy, kept_layers: int) -> None:
    text = 32 * 65 * 524_288 // 32
    visual = kept_layers * 576 * 524_288 // 32
    assert LLAVA.of(policy.resolve(576), 576, 65) == text + visual


@settings(deadline=None)
@given(arrays(np.int64, (2, 28, 3), elements=st.integers(0, 50)), st.integers(0, 9))
def test_only_live_keys_count_and_none_is_dead(counts: np.ndarray, n_other: int) -> None:
    of = QWEN.of(counts, 50, n_other)
    assert of.shape == (2,)
    assert of.dtype == np.int64
    assert np.array_equal(of, QWEN.of(live(counts), 50, n_other))
    assert (of <= QWEN.stock(50, n_other)).all()
    more = np.minimum(counts + np.array([0, 1, 0]), 50)
    assert ((QWEN.of(more, 50, n_other) - of) == 2048 * (more - counts).sum(axis=(1, 2))).all()
