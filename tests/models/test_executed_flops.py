"""FLOPs of a pruned prefill as torch counts them, equal to the cost to the integer."""

from fractions import Fraction

import numpy as np
import pytest
from torch.utils.flop_counter import FlopCounterMode

from opsearch.costs import Flops
from opsearch.costs.base import policy_cost
from opsearch.costs.flops import executed
from opsearch.costs.rankings import ranking_flops
from opsearch.costs.shape import Shape
from opsearch.models.families import family_for
from opsearch.policy import builders
from opsearch.policy.policy import Policy
from opsearch.policy.ranker import RankerSpec
from tests.models import policies
from tests.models.judge import samples
from tests.support import tiny
from tests.support.families import FAMILIES
from tests.support.families.prompt import prompts
from tests.support.flop_counter import CPU_KERNEL

pytestmark = pytest.mark.usefixtures("no_grad")

LAYERS = 4
CLS, UNIFORM, RANDOM = RankerSpec("cls"), RankerSpec("uniform"), RankerSpec("random")
COUNTS = np.random.default_rng(0).integers(0, 10, (LAYERS, 3))
POLICIES = {
    "original": builders.identity(LAYERS),
    "tokens": builders.tokens(LAYERS, "1/3", UNIFORM),
    "dop, kv leaves": builders.dop(LAYERS, 3, 2, "1/2", CLS),
    "dop, kv stays": builders.dop(LAYERS, 3, 2, "1/2", CLS, kv="stays"),
    "dop, nothing but dead operations": builders.dop(LAYERS, 4, 3),
    "depth": builders.depth(LAYERS, 1, 3, 2, "2/3", RANDOM),
    "depth, q before kv": builders.depth(LAYERS, 3, 2, 4),
    "vtw at 0": builders.vtw(LAYERS, 0),
    "vtw": builders.vtw(LAYERS, 2),
    "vtw at the end": builders.vtw(LAYERS, LAYERS),
    "shortv": builders.shortv(LAYERS, [0, 2]),
    "stages": builders.stages(LAYERS, {0: 1, 1: "1/2", 3: "1/9"}, CLS),
    "random counts": Policy(
        tuple(tuple(Fraction(int(c)) for c in triple) for triple in COUNTS),
        unit="tokens",
        rankers=((0, RANDOM),),
    ),
    "more tokens than there are": Policy(
        ((Fraction(99),) * 3,) * LAYERS, unit="tokens", rankers=((0, RANDOM),)
    ),
}


@pytest.fixture(scope="module", params=["sdpa", "eager"])
def model(request):
    return tiny.llava(LAYERS, attention=request.param)


@pytest.fixture(params=POLICIES.values(), ids=POLICIES.keys())
def policy(request):
    return request.param


def counted(model, inputs):
    """Return FLOPs of the decoder's layers and of the lm_head on one row per sample.

    Rotary angles are left out; older transformers compute them as a matrix product.
    """
    with FlopCounterMode(display=False, custom_mapping=CPU_KERNEL) as counter:
        model(**inputs, logits_to_keep=1)
    modules = counter.get_flop_counts()
    decoder, head = family_for(model.config.model_type).decoder, "lm_head"
    flops = {
        part: sum(modules.get(f"{type(model).__name__}.{part}", {}).values())
        for part in (decoder, f"{decoder}.rotary_emb", head)
    }
    return flops[decoder] - flops[f"{decoder}.rotary_emb"] + flops[head]


@pytest.mark.parametrize("layout", [[[3, 4]], [[1, 0, 6]]], ids=["one image", "two images"])
def test_one_sample(model, policy, layout):
    inputs = tiny.prompts(layout)
    n_visual = int((inputs["input_ids"] == tiny.IMAGE).sum())
    cost = Flops(Shape.from_config(model.config))
    with policy.apply(model):
        measured = counted(model, inputs)
    assert measured == policy_cost(cost, policy, n_visual, 7)


@pytest.mark.parametrize("name", FAMILIES)
def test_one_sample_of_every_family(name):
    model, inputs = FAMILIES[name].model(policies.LAYERS), prompts(FAMILIES[name], [[1, 3, 4]])
    (sample,) = samples(model, inputs)
    n_visual, n_other = sample.n_visual, len(sample.ids) - sample.n_visual
    cost = Flops(Shape.from_config(model.config))
    for label in ("tokens, uniform", "dop, kv leaves", "dop, kv stays", "stages", "shortv"):
        policy = policies.with_rankers_of(family_for(name))[label]
        with policy.apply(model):
            measured = counted(model, inputs)
        assert measured == cost.of(policy.resolve(n_visual), n_visual, n_other), label


@pytest.mark.parametrize("label", policies.INSIDE)
def test_rankers_inside_take_what_is_shown_beside(label):
    """The rankers' own work is not part of the policy's cost."""
    policy, inputs = policies.INSIDE[label], tiny.prompts([[3, 4]])
    model = tiny.llava(policies.LAYERS)
    shape = Shape.from_config(model.config)
    with policy.apply(model):
        measured = counted(model, inputs)
    own = ranking_flops(policy, 9, 7, shape)
    assert own > 0
    assert measured == policy_cost(Flops(shape), policy, 9, 7) + own


def test_the_identity_costs_what_the_stock_model_costs(model):
    inputs = tiny.prompts([[3, 4]])
    cost = Flops(Shape.from_config(model.config))
    assert counted(model, inputs) == cost.stock(9, 7)
    assert cost.of(POLICIES["original"].resolve(9), 9, 7) == cost.stock(9, 7)


def test_pruned_policies_execute_less(model):
    """A counter that counts nothing would pass the tests above."""
    cost = Flops(Shape.from_config(model.config))
    of = {name: int(cost.of(policy.resolve(9), 9, 7)) for name, policy in POLICIES.items()}
    whole = {name for name, flops in of.items() if flops == of["original"]}
    assert whole == {"original", "vtw at the end", "more tokens than there are"}
    assert max(of.values()) == of["original"]
    assert min(of.values()) == of["vtw at 0"] < 0.45 * of["original"]


@pytest.mark.parametrize("pad", ["left", "right"])
def test_a_padded_batch(model, policy, pad):
    inputs = tiny.prompts([[3, 4], [1, 0, 6], [7], [0, 5]], pad=pad)
    n_visual, n_other = [9, 18, 0, 9], [7, 7, 7, 5]
    counts = np.stack([policy.executed(n) for n in n_visual])
    with policy.apply(model):
        measured = counted(model, inputs)
    assert measured == executed(counts, n_visual, n_other, Shape.from_config(model.config))
