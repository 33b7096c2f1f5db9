"""Counts, dead operations, schedules and canonical keys of policies."""

from fractions import Fraction
from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from opsearch.errors import PolicyError
from opsearch.policy import builders
from opsearch.policy.counts import KV, MLP, MODULES, Q, live, resolve_fraction
from opsearch.policy.policy import Policy
from opsearch.policy.ranker import RankerSpec
from tests.models import judge
from tests.support import reference, tiny
from tests.support.messages import naming

CLS, UNIFORM, RANDOM = RankerSpec("cls"), RankerSpec("uniform"), RankerSpec("random")
FASTV, DROP = RankerSpec("fastv"), RankerSpec("pyramiddrop")
N = 9


def in_tokens(table, rankers=()):
    """A policy in numbers of tokens."""
    triples = tuple(tuple(Fraction(int(c)) for c in triple) for triple in table)
    return Policy(triples, unit="tokens", rankers=tuple(rankers))


def constant(share, unit="fraction", layers=2):
    return Policy(((Fraction(share),) * 3,) * layers, unit=unit)


# resolve

shares = st.fractions(0, 1, max_denominator=1000)


@given(share=shares, n=st.integers(0, 5000))
def test_a_share_rounds_half_up_and_keeps_at_least_one_token(share, n):
    exact = int((share * n + Fraction(1, 2)) // 1)
    wanted = 0 if share == 0 else min(max(exact, 1), n)
    assert resolve_fraction(share, n) == wanted
    assert (Policy(((share,) * 3,)).resolve(n) == wanted).all()


@pytest.mark.parametrize(
    ("share", "n", "wanted"),
    [
        ("1/2", 9, 5),
        ("1/2", 8, 4),
        ("1/1000", 9, 1),
        ("1/1000", 0, 0),
        ("0", 9, 0),
        ("1", 9, 9),
        ("999/1000", 9, 9),
        ("9/16", 576, 324),
        ("1/18", 9, 1),
        ("1/6", 9, 2),
    ],
)
def test_shares_of_some_samples(share, n, wanted):
    assert resolve_fraction(Fraction(share), n) == wanted


@given(smaller=shares, larger=shares, n=st.integers(0, 3000))
def test_larger_shares_never_give_fewer_tokens(smaller, larger, n):
    low, high = sorted((smaller, larger))
    assert resolve_fraction(low, n) <= resolve_fraction(high, n)


@given(count=st.integers(0, 4000), n=st.integers(0, 3000))
def test_numbers_of_tokens_are_capped(count, n):
    assert (constant(count, "tokens").resolve(n) == min(count, n)).all()


def test_resolved_counts_are_a_table_of_layers_and_modules():
    policy = in_tokens([[1, 2, 3], [4, 5, 6]])
    counts = policy.resolve(5)
    assert counts.dtype == np.int64
    assert counts.tolist() == [[1, 2, 3], [4, 5, 5]]
    assert MODULES[Q] == "q"
    assert MODULES[KV] == "kv"
    assert MODULES[MLP] == "mlp"


# live


def logits(model, embeds, rank, counts):
    """Return the logits at text positions."""
    positions = torch.arange(len(rank))
    return reference.masked_forward(model, embeds, rank, counts.tolist(), positions)[rank < 0]


@pytest.mark.parametrize("seed", range(8))
def test_an_operation_is_dead_iff_nothing_changes_without_it(seed):
    """For each operation, the fewest tokens that leave every logit of the masked model as it is."""
    rng = np.random.default_rng(seed)
    layers = 3
    counts = rng.integers(0, N + 1, (layers, 3)) * rng.integers(0, 2, (layers, 3))
    model = tiny.llava(layers, seed=seed)
    inputs = tiny.prompts([[2, 2]], seed=seed)
    with torch.inference_mode():
        (sample,) = judge.samples(model, inputs)
        embeds = sample.embeds
        rank = reference.rank_by(sample.scores, sample.visual)
        wanted = logits(model, embeds, rank, counts)
        needed = np.zeros_like(counts)
        for layer, module in product(range(layers), range(3)):
            fewer = counts.copy()
            for count in range(int(counts[layer, module]) + 1):
                fewer[layer, module] = count
                if torch.equal(logits(model, embeds, rank, fewer), wanted):
                    break
            needed[layer, module] = count
        assert in_tokens(counts).live(N).tolist() == needed.tolist()
        together = logits(model, embeds, rank, needed)
    assert torch.equal(together, wanted), "dead operations are dead together"


def read_operations(counts, candidates):
    """Literal search over who reads what, from the text and the rankers back, int[L, 3].

    A node is a layer and a token: its hidden state before that layer. The text reads it through the
    layer's kv, a ranker before the layer as itself. The state after a layer comes from the state
    before it, through q and then mlp where the token has them.
    """
    layers = len(counts)
    tokens = range(int(counts.max(initial=0)))
    read = {(at, token) for at in range(layers) for token in tokens if token < counts[at, KV]}
    read |= {(at, token) for at, most in candidates.items() for token in range(most)}
    frontier, used = list(read), set()
    while frontier:
        layer, token = frontier.pop()
        if layer == 0:
            continue
        used |= {(layer - 1, m, token) for m in (Q, MLP) if token < counts[layer - 1, m]}
        if (layer - 1, token) not in read:
            read.add((layer - 1, token))
            frontier.append((layer - 1, token))
    table = np.zeros_like(counts)
    table[:, KV] = counts[:, KV]
    for layer, module, _ in used:
        table[layer, module] += 1
    return table


tables = st.integers(1, 6).flatmap(
    lambda layers: st.lists(
        st.tuples(*[st.integers(0, 5)] * 3), min_size=layers, max_size=layers
    ).map(np.array)
)


@given(counts=tables, data=st.data())
def test_live_is_what_a_search_over_readers_finds(counts, data):
    where = data.draw(st.sets(st.integers(0, len(counts) - 1), max_size=2))
    policy = in_tokens(counts, [(r, DROP) for r in sorted(where)])
    candidates = policy.candidates(5)
    assert candidates.keys() <= where
    assert policy.live(5).tolist() == read_operations(counts, candidates).tolist()


@given(counts=tables)
def test_live_is_below_the_counts_and_stable(counts):
    once = live(counts)
    assert (once <= counts).all()
    assert (live(once) == once).all()


def test_live_takes_many_tables_at_once():
    stack = np.random.default_rng(0).integers(0, 6, (4, 7, 5, 3))
    before = stack.copy()
    singles = np.array([[live(counts) for counts in row] for row in stack])
    assert (live(stack) == singles).all()
    assert (stack == before).all(), "the input is not changed"


# rankers inside the decoder


def test_a_ranker_inside_keeps_its_candidates_alive():
    """No layer reads kv after layer 0, but the ranker before layer 2 orders 4 tokens."""
    table = [[4, 4, 4], [4, 0, 4], [3, 3, 3]]
    assert in_tokens(table).live(4).tolist() == [[3, 4, 3], [3, 0, 3], [0, 3, 0]]
    ranked = in_tokens(table, [(2, DROP)])
    assert ranked.candidates(4) == {2: 4}
    assert ranked.live(4).tolist() == [[4, 4, 4], [4, 0, 4], [0, 3, 0]]


def test_a_ranker_that_reads_the_preceding_layer_keeps_nothing_alive():
    """Tokens that FastV does not choose are not updated in the layer whose attention it reads."""
    policy = in_tokens([[9, 9, 9], [9, 9, 9], [3, 3, 3], [3, 3, 3]], [(2, FASTV)])
    assert policy.candidates(9) == {1: 9}
    assert policy.live(9).tolist() == [[9, 9, 9], [3, 9, 3], [3, 3, 3], [0, 3, 0]]


@pytest.mark.parametrize(
    ("before", "candidates", "live"),
    [
        ([9, 9, 9], {1: 9}, [3, 9, 3]),
        ([0, 9, 0], {1: 9}, [0, 9, 0]),
        ([9, 6, 9], {1: 6}, [3, 6, 3]),
        ([5, 9, 9], {2: 9}, [5, 9, 9]),  # the old order selects these 5
        ([9, 3, 9], {}, [3, 3, 3]),  # all that it reads are kept
        ([9, 0, 9], {}, [3, 0, 3]),
    ],
)
def test_where_the_order_of_fastv_holds(before, candidates, live):
    policy = in_tokens([[9, 9, 9], before, [3, 3, 3], [3, 3, 3]], [(0, RANDOM), (2, FASTV)])
    assert policy.candidates(9) == candidates
    assert policy.live(9)[1].tolist() == live


def test_candidates_of_a_ranker_that_reads_the_layer_it_acts_before():
    """They are updated by the preceding layer or processed by a later one."""
    table = [[7, 9, 7], [5, 7, 5], [3, 5, 3]]
    pruned = in_tokens(table, [(layer, RankerSpec("fitprune")) for layer in range(3)])
    assert [(t.attention_layer, t.layer, t.candidates) for t in pruned.schedule(9).rerankings] == [
        (0, 0, 9),
        (1, 1, 7),
    ], "in the last layer no result is read"


@pytest.mark.parametrize(
    ("table", "acting"),
    [
        ([[9, 9, 9], [4, 4, 4], [2, 2, 2]], [1, 2]),
        ([[9, 9, 9], [9, 9, 9], [2, 2, 2]], [2]),  # the second reranks all of them
        ([[9, 9, 9], [4, 4, 4], [4, 4, 4]], [1]),
        ([[9, 9, 9], [4, 4, 4], [0, 0, 0]], [1]),
        ([[9, 9, 9], [0, 0, 0], [0, 0, 0]], []),
        ([[9, 9, 9], [4, 0, 4], [0, 0, 0]], []),  # no layer reads the 4
    ],
)
def test_rankers_act_where_their_order_selects_tokens(table, acting):
    policy = in_tokens(table, [(1, DROP), (2, DROP)])
    assert [each.ranker_layer for each in policy.schedule(9).rerankings] == acting
    alone = in_tokens(table, [(layer, DROP) for layer in acting])
    assert distinct([policy, alone], n=9) == 1
    assert distinct([policy, in_tokens(table)], n=9) == 1 + bool(acting)


def test_the_order_before_the_decoder_holds_up_to_the_first_reranking():
    table = [[6, 6, 6], [3, 3, 3]]
    chosen = in_tokens(table, [(0, CLS), (1, DROP)]).schedule(9)
    assert chosen.kept == {6}
    assert in_tokens([[9, 9, 9], [3, 3, 3]], [(0, CLS), (1, DROP)]).schedule(9).kept == set()
    others = in_tokens([[9, 9, 9], [3, 3, 3]], [(0, UNIFORM), (1, DROP)])
    assert distinct([others, in_tokens([[9, 9, 9], [3, 3, 3]], [(1, DROP)])], n=9) == 1


def test_rankers_at_layers_where_they_cannot_act():
    with pytest.raises(PolicyError, match=naming("cls", "layer 1", "fastv")):
        in_tokens([[9, 9, 9], [3, 3, 3]], [(1, CLS)]).live(9)
    with pytest.raises(PolicyError, match=naming("fastv", "layer 0", 1)):
        in_tokens([[9, 9, 9], [3, 3, 3]], [(0, FASTV)]).live(9)


# executed, identity


def test_the_identity_is_executed_whole_and_others_live():
    assert (builders.identity(3).executed(N) == N).all()
    assert (builders.vtw(3, 3).executed(N) == N).all(), "it prunes nothing either"
    assert builders.dop(3, 3, 2).executed(N)[-1].tolist() == [0, N, 0]


@pytest.mark.parametrize(
    ("policy", "n", "identical"),
    [
        (builders.identity(2), 9, True),
        (constant("999/1000"), 9, True),
        (constant("999/1000"), 576, False),
        (constant(9, "tokens"), 9, True),
        (constant(9, "tokens"), 10, False),
        (builders.vtw(2, 1), 9, False),
        (builders.vtw(2, 1), 0, True),
    ],
)
def test_identity_is_a_property_of_policy_and_sample(policy, n, identical):
    assert policy.is_identity(n) == identical


# canonical


def distinct(policies, n=576):
    return len({policy.canonical(n) for policy in policies})


def test_distinct_cells_of_dop_at_32_layers():
    depths = range(33)
    leaves = [builders.dop(32, a, m) for a, m in product(depths, depths)]
    stays = [builders.dop(32, a, m, kv="stays") for a, m in product(depths, depths)]
    assert len(leaves) == 1089
    assert distinct(leaves) == 529 == 1 + 32 * 33 // 2
    assert distinct(stays) == 1024


def test_distinct_depth_policies_at_12_layers():
    depths = range(13)
    assert distinct(builders.depth(12, *d) for d in product(depths, repeat=3)) == 651
    assert distinct(builders.dop(12, a, m) for a, m in product(depths, depths)) == 79


def test_the_ranker_counts_only_where_its_order_is_looked_at():
    assert distinct([builders.tokens(4, "1/2", r) for r in (CLS, UNIFORM)]) == 2
    assert distinct([builders.tokens(4, "1/2", CLS)] * 2) == 1
    assert distinct([builders.vtw(4, 2), builders.dop(4, 2, 2, 1, CLS)]) == 1
    assert distinct([builders.dop(4, 0, 4, "1/2", r) for r in (None, CLS, UNIFORM)]) == 1
    seeds = [RankerSpec("random", (("seed", seed),)) for seed in (0, 1)]
    assert distinct(builders.tokens(4, "1/2", seed) for seed in seeds) == 2


def test_names_units_and_provenance_do_not_change_the_key():
    counts = builders.vtw(2, 1).counts
    same = [
        Policy(counts, name="a"),
        Policy(counts, name="b", provenance={"budget": "14%"}, model_type="llava"),
        in_tokens([[576, 576, 576], [0, 0, 0]]),
    ]
    assert distinct(same) == 1


def test_equal_shares_that_resolve_alike_are_one_policy_for_small_samples():
    pair = [builders.tokens(3, share, CLS) for share in ("1/2", "51/100")]
    assert distinct(pair, n=9) == 1
    assert distinct(pair, n=576) == 2


@given(left=tables, right=tables)
def test_keys_agree_iff_the_live_counts_do(left, right):
    same = left.shape == right.shape and (live(left) == live(right)).all()
    assert (distinct([in_tokens(left), in_tokens(right)], n=5) == 1) == same


def test_keys_of_numpy_numbers():
    policy = builders.vtw(2, 1)
    assert policy.canonical(np.int64(9)) == policy.canonical(9)


# builders, as in the table of methods

F, H = Fraction(1), Fraction(1, 2)
FULL, HALF, NONE, READ = (F, F, F), (H, H, H), (0, 0, 0), (0, F, 0)
BUILT = {
    "full": (builders.identity(3), [FULL] * 3),
    "reducers before the decoder": (builders.tokens(3, H, CLS), [HALF] * 3),
    "dop, kv leaves": (builders.dop(3, 2, 1, H), [HALF, (H, H, 0), NONE]),
    "dop, kv leaves, mlp longer": (builders.dop(3, 1, 2, H), [HALF, (0, 0, H), NONE]),
    "dop, kv stays": (builders.dop(3, 2, 1, H, kv="stays"), [HALF, (H, H, 0), (0, H, 0)]),
    "three depths": (builders.depth(3, 1, 3, 2), [FULL, (0, F, F), READ]),
    "vtw": (builders.vtw(3, 1), [FULL, NONE, NONE]),
    "shortv": (builders.shortv(3, {1}), [FULL, READ, FULL]),
    "fastv": (builders.stages(3, {0: 1, 1: H}, CLS), [FULL, HALF, HALF]),
    "pyramiddrop": (
        builders.stages(4, {0: 1, 1: "1/2", 2: "1/4", 3: "1/8"}, CLS),
        [FULL, HALF, (H / 2,) * 3, (H / 4,) * 3],
    ),
}


@pytest.mark.parametrize(("policy", "wanted"), BUILT.values(), ids=BUILT.keys())
def test_methods_as_counts(policy, wanted):
    assert policy.counts == tuple(wanted)
    assert policy.unit == "fraction"


def test_three_depths_contain_both_readings_of_dop():
    for a, m in product(range(4), range(4)):
        assert builders.depth(3, a, a, m, H).counts == builders.dop(3, a, m, H).counts
        stays = builders.dop(3, a, m, H, kv="stays")
        assert builders.depth(3, a, 3, m, H).counts == stays.counts


def test_a_ranker_of_a_builder_acts_before_the_decoder():
    for policy in (builders.tokens(3, H, CLS), builders.dop(3, 2, 1, H, CLS)):
        assert policy.rankers == ((0, CLS),)
    assert builders.vtw(3, 1).rankers == ()


def test_names_say_how_a_policy_was_built():
    assert builders.identity(3).name == "original"
    assert builders.tokens(3, "1/3").name == "tokens(n_v=1/3)"
    assert builders.dop(3, 2, 1, "1/2").name == "dop(d_attn=2, d_mlp=1, n_v=1/2, kv leaves)"
    assert builders.depth(3, 1, 3, 2).name == "depth(d_q=1, d_kv=3, d_mlp=2, n_v=1)"
    assert builders.vtw(3, 1).name == "vtw(k=1)"
    assert builders.shortv(3, {2, 0}).name == "shortv(frozen=[0, 2])"
    assert builders.stages(3, {1: H, 0: 1}).name == "stages(0: 1, 1: 1/2)"


def test_specs_as_text():
    assert str(CLS) == "cls"
    assert str(RankerSpec("random", (("seed", 3), ("n", 1)))) == "random(seed=3, n=1)"


# equality


def test_policies_are_values():
    left, right = (builders.dop(4, 2, 1, "1/2", CLS) for _ in range(2))
    assert left == right
    assert hash(left) == hash(right)
    assert left != builders.dop(4, 2, 1, "1/2", UNIFORM)
    assert left != builders.dop(4, 2, 2, "1/2", CLS)
    assert len({left, right, builders.vtw(4, 1)}) == 2


def test_provenance_is_no_part_of_equality():
    counts = builders.vtw(2, 1).counts
    noted = Policy(counts, provenance={"seed": 0})
    assert noted == Policy(counts)
    assert hash(noted) == hash(Policy(counts))


# errors


def broken(counts, unit="fraction", rankers=()):
    return lambda: Policy(tuple(map(tuple, counts)), unit=unit, rankers=rankers)


ONES = (F, F, F)
ERRORS = {
    "no layers": (broken([]), ("layer",)),
    "above one": (
        broken([ONES, (F, Fraction(3, 2), F)]),
        ("3/2", "kv", "layer 1", "'fraction'"),
    ),
    "negative": (
        broken([(-F, F, F)]),
        (
            "-1",
            "q",
            "layer 0",
        ),
    ),
    "negative tokens": (
        broken([(F, F, -F)], "tokens"),
        (
            "-1",
            "mlp",
            "layer 0",
        ),
    ),
    "half a token": (
        broken([(F, H, F)], "tokens"),
        (
            "1/2",
            "kv",
            "layer 0",
        ),
    ),
    "an unknown unit": (broken([ONES], "percent"), ("unit", "'percent'", "'fraction'")),
    "two modules only": (broken([(F, F)]), ("layer 0", "q, kv", "mlp")),
    "a ranker behind the last layer": (
        broken([ONES] * 2, rankers=((2, CLS),)),
        ("layer 2", 0, 1),
    ),
    "two rankers at one layer": (
        broken([ONES] * 2, rankers=((0, CLS), (0, UNIFORM))),
        ("layer 0", "cls", "uniform"),
    ),
    "a depth behind the end": (lambda: builders.depth(3, 1, 4, 1), ("d_kv=4", "0..3")),
    "a negative depth": (lambda: builders.vtw(3, -1), ("-1", "0..3")),
    "a share above one": (
        lambda: builders.tokens(3, 2),
        (
            "2",
            "q",
            "layer 0",
        ),
    ),
    "no reading of dop": (
        lambda: builders.dop(3, 1, 1, kv="remains"),
        ("kv='remains'", "'leaves'", "'stays'"),
    ),
    "frozen layers behind the end": (lambda: builders.shortv(3, {1, 3, 7}), ("[3, 7]", "0..2")),
    "stages without a start": (lambda: builders.stages(3, {1: H}), ("[1]", "layer 0")),
    "a stage behind the end": (lambda: builders.stages(3, {0: 1, 5: H}), (5, "0..2")),
}


@pytest.mark.parametrize(("make", "values"), ERRORS.values(), ids=ERRORS.keys())
def test_malformed_policies_are_refused(make, values):
    with pytest.raises(PolicyError, match=naming(*values)):
        make()


# Counts from outside


@pytest.mark.parametrize(
    "count", [0.5, 1.0, float("nan"), float("inf"), np.float64(0.25), True, np.True_, None, "half"]
)
@pytest.mark.parametrize("unit", ["fraction", "tokens"])
def test_a_count_that_is_not_exact_is_refused(count, unit):
    with pytest.raises(PolicyError, match=naming("layer 1", repr(count), "'9/16'")):
        Policy(((Fraction(1),) * 3, (1, count, 1)), unit=unit)


@pytest.mark.parametrize(
    ("count", "unit"),
    [
        (-1, "tokens"),
        ("-1/2", "fraction"),
        (2, "fraction"),
        ("1/2", "tokens"),
        ("110%", "fraction"),
    ],
)
def test_a_count_out_of_its_range_is_refused(count, unit):
    with pytest.raises(PolicyError, match=naming("q", "layer 0", repr(unit))):
        Policy(((count, 1, 1),), unit=unit)


def test_exact_counts_of_any_type_are_one_policy():
    exact = Policy(((Fraction(1, 2), Fraction(1), Fraction(0)),))
    for triple in (("1/2", "1", "0"), ["0.5", 1, 0], (np.int64(0), 1, 0), ("50%", "1e0", 0)):
        policy = Policy([triple])
        assert (policy == exact) is bool(triple[0] != 0)
        assert all(type(count) is Fraction for count in policy.counts[0])
        assert hash(policy) == hash(Policy(policy.counts))
    assert Policy(((3, 3, 3),), unit="tokens").resolve(2).tolist() == [[2, 2, 2]]
