"""Costs that papers print for LLaVA-1.5-7B and LLaVA-NeXT-7B, reproduced."""

from dataclasses import replace
from fractions import Fraction
from statistics import mean

import numpy as np
import pytest

from opsearch.costs.flops import flops
from opsearch.costs.shape import CHECKPOINTS
from opsearch.policy import builders
from opsearch.policy.policy import Policy
from tests.costs.published import calflops, fitprune_macs, recipe_tokens

# The papers count with Vicuna's own vocabulary; LLaVA's checkpoints on the hub pad it to 32,064.
VICUNA = replace(CHECKPOINTS["llava-1.5-7b"].shape, vocab=32000)
FULL = builders.identity(32)
PYRAMIDDROP = builders.stages(32, {0: 1, 8: "1/2", 16: "1/4", 24: "1/8"})
SHORTV = builders.shortv(
    32, [31, 29, 30, 28, 0, 26, 27, 25, 24, 22, 23, 21, 2, 3, 20, 18, 17, 12, 19]
)


def cost(policy: Policy, n_visual: int, n_other: int = 0, convention: str = "macs") -> int:
    return int(flops(policy.resolve(n_visual), n_visual, n_other, VICUNA, convention))


def two_matrix(tokens: int) -> int:
    """Return MACs of the full model by FastV's convention."""
    return cost(FULL, tokens, convention="fastv")


def fastv(share: str) -> Policy:
    return builders.stages(32, {0: 1, 2: share})


@pytest.mark.parametrize(
    ("n_visual", "n_other", "convention", "expected"),
    [
        (576, 0, "macs", 3_817_152_184_320),
        (2880, 0, "macs", 20_825_222_676_480),
        (711, 0, "2macs", 9_473_918_238_720),
        (576, 135, "2macs", 9_473_918_238_720),
    ],
)
def test_full_model_to_the_integer(
    n_visual: int, n_other: int, convention: str, expected: int
) -> None:
    assert cost(FULL, n_visual, n_other, convention) == expected


@pytest.mark.parametrize(
    ("n_visual", "tera"),
    [
        *[(576, 3.817), (288, 1.887), (192, 1.253), (144, 0.938), (128, 0.833), (96, 0.624)],
        *[(64, 0.416), (58, 0.376), (32, 0.208)],
        *[(2880, 20.825), (1440, 9.869), (640, 4.252), (320, 2.099), (160, 1.043)],
    ],
)
def test_token_reduction_in_macs(n_visual: int, tera: float) -> None:
    assert round(cost(FULL, n_visual) / 1e12, 3) == tera


@pytest.mark.parametrize(
    ("before", "after", "ratio"),
    [
        *[(576, 64, 9.19), (576, 128, 4.58), (576, 32, 18.40)],
        *[(2880, 640, 4.90), (2880, 320, 9.92), (2880, 160, 19.97)],
    ],
)
def test_reduction_ratios(before: int, after: int, ratio: float) -> None:
    assert round(cost(FULL, before) / cost(FULL, after), 2) == ratio


@pytest.mark.parametrize(
    ("convention", "factor", "at_576", "at_2880"),
    [
        ("macs", 1, "3.82", "20.8"),
        ("2macs", 1, "7.634", "41.65"),
        ("2macs", 1, "7.63", "41.7"),
        ("fastv", 1, "2.986", "16.67"),
        ("fastv", 2, "5.972", "33.34"),
    ],
)
def test_full_model_by_convention(convention: str, factor: int, at_576: str, at_2880: str) -> None:
    for n_visual, expected in ((576, at_576), (2880, at_2880)):
        digits = len(expected.split(".")[1])
        tera = factor * cost(FULL, n_visual, convention=convention) / 1e12
        assert f"{tera:.{digits}f}" == expected


def test_next_with_other_tokens() -> None:
    assert round(cost(FULL, 2880, 135, "2macs") / 1e12, 2) == 43.82


@pytest.mark.parametrize(
    ("policy", "n_visual", "tera", "mean_tokens"),
    [
        (fastv("1/2"), 576, 2.007, 306),
        (fastv("1/2"), 2880, 10.554, 1530),
        (fastv("1/4"), 576, 1.118, 171),
        (fastv("1/4"), 2880, 5.800, 855),
        (fastv("1/10"), 576, 0.592, 90.4),
        (fastv("1/10"), 2880, 3.070, 450),
        (PYRAMIDDROP, 576, 1.777, 270),
        (PYRAMIDDROP, 2880, 9.465, 1350),
        (builders.vtw(32, 15), 576, 1.789, 270),
        (builders.vtw(32, 16), 576, 1.909, 288),
    ],
)
def test_default_schedules(policy: Policy, n_visual: int, tera: float, mean_tokens: float) -> None:
    assert round(cost(policy, n_visual) / 1e12, 3) == tera
    assert round(policy.resolve(n_visual).mean(), 1) == mean_tokens


@pytest.mark.parametrize(("n_visual", "kept"), [(576, 58), (2880, 288)])
def test_fastv_90_keeps(n_visual: int, kept: int) -> None:
    assert (fastv("1/10").resolve(n_visual)[2:] == kept).all()


@pytest.mark.parametrize(
    ("policy", "n_visual", "n_other", "percent"),
    [
        (PYRAMIDDROP, 576, 0, 46.6),
        (PYRAMIDDROP, 2880, 0, 45.4),
        (SHORTV, 576, 64, 55.2),
        (SHORTV, 576, 95, 57.3),
        (SHORTV, 2880, 64, 50.5),
        (SHORTV, 2880, 95, 51.0),
    ],
)
def test_share_of_the_full_model(
    policy: Policy, n_visual: int, n_other: int, percent: float
) -> None:
    share = cost(policy, n_visual, n_other) / cost(FULL, n_visual, n_other)
    assert round(100 * share, 1) == percent


@pytest.mark.parametrize(
    ("n_v", "d_attn", "d_mlp", "leaves", "stays"),
    [
        (640, 32, 32, 0.236, 0.236),
        (640, 16, 16, 0.138, 0.154),
        (640, 24, 8, 0.124, 0.132),
        (880, 16, 8, 0.133, 0.155),
        (1280, 10, 6, 0.134, 0.179),
    ],
)
def test_cells_of_dop(n_v: int, d_attn: int, d_mlp: int, leaves: float, stays: float) -> None:
    full = cost(FULL, 2880, 135, "2macs")
    share = Fraction(n_v, 2880)
    for kv, expected in (("leaves", leaves), ("stays", stays)):
        policy = builders.dop(32, d_attn, d_mlp, share, kv=kv)
        assert round(cost(policy, 2880, 135, "2macs") / full, 3) == expected


@pytest.mark.parametrize(
    ("cut", "n_other", "tera", "n_v"),
    [(86, 0, 5.83, 442), (86, 135, 6.13, 330), (77, 0, 9.58, 719), (77, 135, 10.08, 620)],
)
def test_uniform_dropping_to_the_cuts_of_dop(cut: int, n_other: int, tera: float, n_v: int) -> None:
    left = (100 - cut) / 100 * cost(FULL, 2880, n_other, "2macs")
    assert round(left / 1e12, 2) == tera
    nearest = min(range(200, 900), key=lambda n: abs(cost(FULL, n, n_other, "2macs") - left))
    assert nearest == n_v


def test_fitprune_tokens() -> None:
    tokens = recipe_tokens(builders.FITPRUNE_60, 576, 32)
    assert sum(builders.FITPRUNE_60.values()) == 449
    assert tokens[-1] == 127
    assert round(mean(tokens[1:]), 1) == 230.9  # seen by O and the MLP
    assert round(mean(tokens[:-1]), 1) == 245.0  # entering a layer


def test_fitprune_macs() -> None:
    assert fitprune_macs(builders.FITPRUNE_60, 576, 0, VICUNA) == 1_538_366_300_160
    reduction = 1 - fitprune_macs(builders.FITPRUNE_60, 576, 0, VICUNA) / cost(FULL, 576)
    assert round(100 * reduction, 1) == 59.7
    with_text = 1 - fitprune_macs(builders.FITPRUNE_60, 576, 95, VICUNA) / cost(FULL, 576, 95)
    assert round(100 * with_text, 1) == 51.4


def test_fitprune_without_a_recipe_is_the_full_model() -> None:
    assert fitprune_macs({}, 576, 35, VICUNA) == cost(FULL, 576, 35)


def test_vtw_issue_7() -> None:
    assert round(calflops(FULL.resolve(576), 576, 50, VICUNA) / 1e12, 3) == 8.478
    assert round(two_matrix(622) / 1e12, 2) == 3.23


def test_fastv_counts_one_layer_of_612_tokens() -> None:
    assert round(two_matrix(612) / 32 / 1e9, 2) == 99.33


@pytest.mark.parametrize(("share", "giga"), [("1/2", 54.8), ("1/4", 33.0), ("1/10", 20.1)])
def test_fastv_layer_averages(share: str, giga: float) -> None:
    counts = builders.stages(32, {0: 1, 2: share}).resolve(576)
    total = flops(counts, 576, 36, VICUNA, "fastv")
    assert round(int(total) / 32 / 1e9, 1) == giga


def test_divprune_averages_datasets() -> None:
    texts = [15, 15, 23, 83, 25, 113, 15, 39, 21, 91, 57]
    full = np.array([two_matrix(576 + text) for text in texts])
    pruned = np.array([two_matrix(56 + text) for text in texts])
    assert round(full.mean() / 1e12, 4) == 3.2280
    assert round(pruned.mean() / 1e12, 4) == 0.5122
    assert round(100 * (pruned / full).mean(), 4) == 15.6303
    assert round(100 * pruned.mean() / full.mean(), 2) == 15.87


@pytest.mark.parametrize(
    ("tokens", "factor", "tera"),
    [
        (605, 1, 3.141),  # AgilePruner, 29 text tokens
        (94, 1, 0.475),
        (2912, 2, 33.76),  # OC-VTP on LLaVA-NeXT, 32 text tokens
        (192, 2, 1.95),
    ],
)
def test_two_matrix_totals(tokens: int, factor: int, tera: float) -> None:
    digits = len(str(tera).split(".")[1])
    assert round(factor * two_matrix(tokens) / 1e12, digits) == tera
