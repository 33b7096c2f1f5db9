"""The comparison with the reference detects a runtime that is wrong in one place."""

from fractions import Fraction
from functools import partial

import pytest
import torch

from opsearch import registry
from opsearch.models import vision
from opsearch.models.families import family_for
from opsearch.models.pruned import layer, plan
from opsearch.policy.counts import KV
from opsearch.policy.policy import Policy
from opsearch.policy.ranker import RankerSpec
from opsearch.rankers import DECODER_RANKERS
from opsearch.rankers.cls import Cls
from opsearch.rankers.random import Random
from tests.models import judge, policies
from tests.models.judge import TOLERANCE, last_text_rows
from tests.models.policies import has_cls
from tests.support import tiny
from tests.support.families import EACH, FAMILIES
from tests.support.families.prompt import prompts

pytestmark = pytest.mark.usefixtures("no_grad")

NOTICED = 100 * TOLERANCE

# Counts that differ everywhere; the image comes first, so layer 0 has rows without any key.
COUNTS = [[9, 0, 7], [5, 8, 3], [6, 4, 2], [3, 5, 6], [0, 2, 0]]
TRIPLES = tuple(tuple(Fraction(c) for c in triple) for triple in COUNTS)
POLICY = Policy(TRIPLES, unit="tokens", rankers=((0, RankerSpec("cls")),))


def deviation(model, inputs, policy):
    """Return the deviation of all rows, and of the last ones, whose operations are an answer's."""
    return judge.deviation(model, inputs, policy, keep=(0, last_text_rows(model, inputs)))


def reversed_ranking(patch):
    for ranker in (Cls, Random):

        def rank(self, prompt, n, stock=ranker.rank):
            places = stock(self, prompt, n)
            last = torch.tensor(prompt.n_visual)[:, None] - 1
            return torch.where(prompt.visual, last - places, places)

        patch.setattr(ranker, "rank", rank)


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
    def rotary(self, kind, position_embeddings, rows):
        return tuple(part[..., : rows.index.shape[1], :] for part in position_embeddings)

    patch.setattr(plan.Plan, "rotary", rotary)


def no_key_rule(patch):
    stock = plan.restrict_mask
    patch.setattr(plan, "restrict_mask", lambda *args: (stock(*args)[0], None))


def no_causality(patch):
    stock = plan.restrict_mask

    def restrict(*args):
        cut, has_key = stock(*args)
        return None if cut is None else cut | True, has_key

    patch.setattr(plan, "restrict_mask", restrict)


def attention_of_the_next_patch(patch):
    stock = vision.cls_attention
    patch.setattr(vision, "cls_attention", lambda *args: stock(*args).roll(1, 1))


MUTATIONS = {
    "another ranking": reversed_ranking,
    "one layer reads one token more": changed_counts(one_more_kv),
    "q and mlp swapped": changed_counts(swapped_modules),
    "positions counted anew": renumbered_positions,
    "rows without keys attend": no_key_rule,
    "tokens see the future": no_causality,
}


@pytest.fixture(scope="module", params=[[[0, 5]], [[0, 5], [0, 3]]], ids=["one", "padded"])
def setting(request):
    return tiny.llava(len(COUNTS)), tiny.prompts(request.param, pad="right")


def test_without_a_mutation_the_runtime_is_right(setting):
    assert deviation(*setting, POLICY) <= TOLERANCE


@pytest.mark.parametrize("mutate", MUTATIONS.values(), ids=MUTATIONS.keys())
def test_a_mutation_is_noticed(setting, mutate, monkeypatch):
    mutate(monkeypatch)
    assert deviation(*setting, POLICY) > NOTICED


def scores_upside_down(patch):
    stock = layer.decoder_scores
    patch.setattr(layer, "decoder_scores", lambda *args: -stock(*args))


def attention_of_another_layer(patch):
    for ranker in map(partial(registry.lookup, "decoder_rankers"), DECODER_RANKERS):
        patch.setattr(ranker, "layers_back", 1 - ranker.layers_back)


@pytest.mark.parametrize("mutate", [scores_upside_down, attention_of_another_layer])
@pytest.mark.parametrize("label", ["fastv, others chosen before", "pyramiddrop", "sparsevlm"])
def test_a_mutation_of_rankers_inside_is_noticed(label, mutate, monkeypatch):
    model, inputs = tiny.llava(policies.LAYERS), tiny.prompts([[2, 5], [1, 4]], pad="right")
    assert deviation(model, inputs, policies.INSIDE[label]) <= TOLERANCE
    mutate(monkeypatch)
    assert deviation(model, inputs, policies.INSIDE[label]) > NOTICED


def unnoticed(name, mutation):
    """Return True where a mutation changes nothing in a family."""
    no_cls = not has_cls(family_for(name)) and mutation is attention_of_the_next_patch
    # Where a token precedes each image, no image comes first.
    preceded = bool(FAMILIES[name].AROUND[0]) and mutation is no_key_rule
    # All tokens of a prompt see each other, text first or last.
    both_ways = family_for(name).attends == "prompt" and mutation in (no_key_rule, no_causality)
    return no_cls or preceded or both_ways


@pytest.mark.parametrize("mutation", [None, *MUTATIONS.values(), attention_of_the_next_patch])
@pytest.mark.parametrize("name", EACH)
def test_a_mutation_is_noticed_in_every_family(name, mutation, monkeypatch):
    family = FAMILIES[name]
    model, inputs = family.model(len(COUNTS)), prompts(family, [[0, 5], [0, 3, 2]], pad="right")
    ranker = RankerSpec("cls" if has_cls(family_for(name)) else "random")
    policy = Policy(TRIPLES, unit="tokens", rankers=((0, ranker),))
    if mutation is None or unnoticed(name, mutation):
        assert deviation(model, inputs, policy) <= TOLERANCE
        return
    mutation(monkeypatch)
    assert deviation(model, inputs, policy) > NOTICED
