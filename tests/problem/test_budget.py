"""Parsing of budgets, their limits, and refusals."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from opsearch.costs import COSTS
from opsearch.costs.shape import CHECKPOINTS, Shape
from opsearch.errors import InfeasibleBudgetError, OpsearchError
from opsearch.problem.budget import EXAMPLES, Budget, constraint
from opsearch.problem.constraint import Constraint, check_budget
from opsearch.problem.spaces import base as space_module
from opsearch.problem.spaces.depth import DepthSpace, depth_space, dop_space, tokens_space
from tests.support.broken_part import broken_part
from tests.support.messages import refuses

TINY = Shape(layers=3, hidden=8, intermediate=12, heads=4, kv_heads=2, head_dim=3, vocab=11)


@pytest.mark.parametrize(
    ("text", "cost", "amount", "relative"),
    [
        ("30%", "flops", Fraction(3, 10), True),
        (" 30 % ", "flops", Fraction(3, 10), True),
        ("-70%", "flops", Fraction(3, 10), True),
        ("0.3x", "flops", Fraction(3, 10), True),
        (".5x", "flops", Fraction(1, 2), True),
        ("100%", "flops", Fraction(1), True),
        ("1x", "flops", Fraction(1), True),
        ("-85.5%", "flops", Fraction(29, 200), True),
        ("30%kv", "kv", Fraction(3, 10), True),
        ("-70% kv", "kv", Fraction(3, 10), True),
        ("0.3x kv", "kv", Fraction(3, 10), True),
        ("5.8T", "flops", Fraction(5_800_000_000_000), False),
        ("190P", "flops", Fraction(190 * 10**15), False),
        ("1.5E FLOPs", "flops", Fraction(3 * 10**18, 2), False),
        ("812M", "flops", Fraction(812_000_000), False),
        ("3.2G FLOPs", "flops", Fraction(3_200_000_000), False),
        ("3.2GFLOPs", "flops", Fraction(3_200_000_000), False),
        ("200MB", "kv", Fraction(200_000_000), False),
        ("1.5 GB", "kv", Fraction(1_500_000_000), False),
        ("64kB", "kv", Fraction(64_000), False),
        ("120ms", "latency", Fraction(120_000_000), False),
        ("1.5 s", "latency", Fraction(1_500_000_000), False),
        ("800us", "latency", Fraction(800_000), False),
        ("40%latency", "latency", Fraction(2, 5), True),
    ],
)
def test_grammar(text: str, cost: str, amount: Fraction, relative: bool) -> None:
    assert Budget.parse(text) == Budget(text, cost, amount, relative)


REFUSED = {
    "nothing is left": ("0%", "-100%", "-130%", "0x", "0T", "-5.8T", "0ms", "-3 s"),
    "nothing is pruned": ("130%", "1.01x kv"),
    "a negative factor": ("-0.3x",),
    "not a number": ("1.2.3%", ".T"),
    "not a budget": ("", "30", "0.3", "lots", "12min", "200MiB", "5e12", "800B", "nan%"),
}


def refusal(text: str) -> str:
    with refuses(OpsearchError, "budget", repr(text), EXAMPLES) as caught:
        Budget.parse(text)
    return str(caught.value)


@pytest.mark.parametrize("text", [text for texts in REFUSED.values() for text in texts])
def test_a_refusal_names_the_text_and_gives_examples(text: str) -> None:
    assert len(refusal(text)) > len(f"budget {text!r}; {EXAMPLES}"), "the reason is missing"


def test_each_kind_of_mistake_has_a_reason_of_its_own() -> None:
    reasons = [{refusal(t).replace(repr(t), "") for t in texts} for texts in REFUSED.values()]
    assert len(set.union(*reasons)) == sum(map(len, reasons))


@pytest.mark.parametrize(("text", "number"), [("1.2.3%", "1.2.3"), (".T", ".")])
def test_a_number_that_cannot_be_read_is_named(text: str, number: str) -> None:
    assert repr(number) in refusal(text)


def test_the_examples_are_budgets() -> None:
    for example in EXAMPLES.split(", "):
        budget = Budget.parse(example)
        assert budget.text == example
        cost = "kv" if "kv" in example or example.endswith("B") else "flops"
        cost = "prefill" if "prefill" in example else cost
        assert budget.cost == ("latency" if example.endswith("s") and "F" not in example else cost)
        assert 0 < budget.limit(10**15, 1) < 10**15


def test_budgets_of_built_in_costs_load_no_other_package() -> None:
    with broken_part("costs"):
        texts = "5.8T", "812M FLOPs", "200MB", "120ms"
        assert [Budget.parse(t).cost for t in texts] == ["flops", "flops", "kv", "latency"]
        with refuses(OpsearchError, "'broken'", "absent_package"):
            Budget.parse("5k things")


def test_limits_are_exact() -> None:
    assert Budget.parse("29%").limit(100, 1) == 29  # 0.29 * 100 is 28.999... in floats
    assert Budget.parse("30%").limit(10**18 + 9, 1) == 3 * 10**17 + 2
    assert Budget.parse("0.001k").limit(999, 7) == 7


@dataclass(frozen=True)
class Rows:
    """A cost that is easy to sum: the counts of all operations, plus the other tokens once."""

    name: str = "flops"
    unit: str = "rows"
    timed: bool = False

    def of(self, counts: np.ndarray, n_visual: int, n_other: int, candidates=None) -> np.ndarray:
        return counts.sum(axis=(-2, -1)) + n_other

    def stock(self, n_visual: int, n_other: int) -> int:
        return 9 * n_visual + n_other


@pytest.mark.parametrize("block", [1, 7, 10**6])
@pytest.mark.parametrize("make", [tokens_space, dop_space, depth_space])
def test_costs_are_sums_over_samples(
    make: Callable[..., DepthSpace], block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(space_module, "POINTS_AT_ONCE", block)
    space = make(3, [Fraction(1, 2)])
    samples = [(10, 2), (7, 2), (10, 2), (10, 5), (7, 2)]
    for name, cost in (("flops", COSTS["flops"](TINY)), ("kv", COSTS["kv"](TINY))):
        limited = constraint(
            Budget.parse(f"50%{name if name == 'kv' else ''}"), cost, space, samples
        )
        expected = [
            sum(int(cost.of(space.decode(p.tolist()).resolve(n), n, t)) for n, t in samples)
            for p in space.points
        ]
        assert limited.costs.tolist() == expected
        assert limited.stock == sum(cost.stock(n, t) for n, t in samples) >= max(expected)
        assert limited.limit == limited.stock // 2
        assert (limited.name, limited.unit, limited.samples) == (name, cost.unit, 5)


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 6), st.integers(1, 4)), min_size=1, max_size=6),
    st.fractions(Fraction(1, 1000), 1),
)
def test_order_of_samples_is_irrelevant_and_limits_are_floors(
    samples: list[tuple[int, int]], share: Fraction
) -> None:
    space = depth_space(3, [Fraction(1, 2)])
    budget = Budget("some", "flops", share, True)
    forth, back = (constraint(budget, Rows(), space, s) for s in (samples, samples[::-1]))
    assert np.array_equal(forth.costs, back.costs)
    assert forth.limit == back.limit
    assert forth.limit <= share * forth.stock < forth.limit + 1


def test_amounts_are_means_per_sample() -> None:
    space = tokens_space(3, [Fraction(1, 2)])
    limited = constraint(Budget.parse("0.05k"), Rows(), space, [(10, 2), (6, 1), (8, 1)])
    assert limited.limit == 150
    assert limited.stock == 220


def test_an_amount_above_the_stock_model_prunes_nothing() -> None:
    space = tokens_space(3)
    with refuses(OpsearchError, "'0.093k'", "92 rows", "30%"):
        constraint(Budget.parse("0.093k"), Rows(), space, [(10, 2)])
    exactly = constraint(Budget.parse("0.092k"), Rows(), space, [(10, 2)])
    assert exactly.limit == exactly.stock


def test_mismatches_are_refused() -> None:
    space = tokens_space(3)
    with refuses(OpsearchError, "'64kB'", "kv", "flops"):
        constraint(Budget.parse("64kB"), Rows(), space, [(10, 2)])
    with refuses(OpsearchError, "'30%'", "sample"):
        constraint(Budget.parse("30%"), Rows(), space, [])


@pytest.mark.parametrize(
    ("within", "step"),
    [
        (({0}, {3}, {1}), "raise more than one"),
        (({0, 1}, {3}, {1}), "raise one: b to 100% (4 units)"),
        (({0}, {0, 3}, {1, 3}), "raise one: a to 100% (4 units) or c to 100% (4 units)"),
    ],
)
def test_budgets_that_exclude_each_other_say_which_to_raise(
    within: tuple[set[int], ...], step: str
) -> None:
    space = tokens_space(3, [Fraction(1, 4), Fraction(1, 2), Fraction(3, 4)])
    limits = [
        Constraint(name, "units", np.array([1 if p in some else 4 for p in range(4)]), 1, 4)
        for name, some in zip("abc", within, strict=True)
    ]
    with pytest.raises(InfeasibleBudgetError) as caught:
        check_budget(space, limits)
    assert str(caught.value).endswith(f"; {step}")


def test_a_search_space_of_full_size_takes_a_second() -> None:
    space = dop_space(32)
    assert len(space.points) == 8449
    samples = [(2880 - 96 * (i % 4), 50 + i % 20) for i in range(64)]
    assert len(set(samples)) == 20
    start = time.perf_counter()
    constraint(
        Budget.parse("14%"), COSTS["flops"](CHECKPOINTS["llava-next-7b"].shape), space, samples
    )
    assert time.perf_counter() - start < 5  # 0.5 s on two idle cores
