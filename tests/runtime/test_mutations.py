"""The comparison with the reference notices a runtime that is wrong in one place."""

from fractions import Fraction

import pytest
import torch

from opsearch.policy import KV, Policy, RankerSpec
from opsearch.rankers.cls import Cls
from opsearch.runtime import plan
from tests import tiny
from tests.runtime.judge import TOLERANCE, deviation

NOTICED = 100 * TOLERANCE

# Counts that differ everywhere; the image stands first, so that layer 0 has rows without any key.
COUNTS = [[9, 0, 7], [5, 8, 3], [6, 4, 2], [3, 5, 6], [0, 2, 0]]
TRIPLES = tuple(tuple(Fraction(c) for c in triple) for triple in COUNTS)
POLICY = Policy(TRIPLES, unit="tokens", rankers=((0, RankerSpec("cls")),))


def reversed_ranking(patch):
    stock = Cls.rank

    def rank(self, prompt, n):
        places = stock(self, prompt, n)
        return torch.where(prompt.visual, 8 - places, places)

    patch.setattr(Cls, "rank", rank)


def changed_counts(change):
    def mutate(patch):
        stock = Policy.executed
        patch.setattr(Policy, "executed", lambda self, n: change(stock(self, n).copy()))

    return mutate


def one_more_kv(counts):
    counts[2, KV] += 1
    return counts


def swapped_modules(counts):
    return counts[:, [2, 1, 0]]


def renumbered_positions(patch):
    def rotary(self, position_embeddings, rows):
        return tuple(part[:, : rows.index.shape[1]] for part in position_embeddings)

    patch.setattr(plan.Plan, "rotary", rotary)


def no_key_rule(patch):
    stock = plan._restrict
    patch.setattr(plan, "_restrict", lambda *args: (stock(*args)[0], None))


def no_causality(patch):
    stock = plan._restrict

    def restrict(mask, q, kv):
        cut, has_key = stock(mask, q, kv)
        return None if cut is None else cut | True, has_key

    patch.setattr(plan, "_restrict", restrict)


MUTATIONS = {
    "another ranking": reversed_ranking,
    "one layer reads one token more": changed_counts(one_more_kv),
    "q and mlp swapped": changed_counts(swapped_modules),
    "positions counted anew": renumbered_positions,
    "rows without keys attend": no_key_rule,
    "tokens see the future": no_causality,
}


@pytest.fixture(autouse=True)
def no_grad():
    with torch.inference_mode():
        yield


@pytest.fixture(scope="module", params=[[[0, 5]], [[0, 5], [0, 3]]], ids=["one", "padded"])
def setting(request):
    return tiny.llava(len(COUNTS)), tiny.prompts(request.param, pad="right")


def test_without_a_mutation_the_runtime_is_right(setting):
    assert deviation(*setting, POLICY) <= TOLERANCE


@pytest.mark.parametrize("mutate", MUTATIONS.values(), ids=MUTATIONS.keys())
def test_a_mutation_is_noticed(setting, mutate, monkeypatch):
    mutate(monkeypatch)
    assert deviation(*setting, POLICY) > NOTICED
