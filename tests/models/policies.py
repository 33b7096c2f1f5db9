"""Policies of every kind for decoders of five layers, and the prompts that they are tested on."""

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest

from opsearch.policy import builders
from opsearch.policy.policy import Policy
from opsearch.policy.ranker import RankerSpec
from tests.support.families import EACH, built

LAYERS = 5
# Samples with one image, two images, none, and an image before any text; they need padding.
MIXED = [[3, 4], [1, 0, 6], [7], [0, 5]]
CLS, UNIFORM, RANDOM = RankerSpec("cls"), RankerSpec("uniform"), RankerSpec("random")

every_family = pytest.mark.parametrize("name", EACH)


def tokens(counts, ranker=CLS):
    """Return a policy with counts in tokens."""
    triples = tuple(tuple(Fraction(int(c)) for c in triple) for triple in counts)
    return Policy(triples, unit="tokens", rankers=((0, ranker),))


def random_counts(seed):
    """Return a random count per layer and module, some above the 9 tokens of an image."""
    return tokens(np.random.default_rng(seed).integers(0, 13, (LAYERS, 3)), (CLS, RANDOM)[seed % 2])


def ranked(counts, *rankers):
    """Return a policy with counts in tokens and rankers by layer."""
    pairs = tuple((layer, RankerSpec(name)) for layer, name in rankers)
    return replace(tokens(counts), rankers=pairs)


def falling(*shares, rankers):
    """Return a policy of a share per layer, with rankers by layer and their parameters."""
    counts = builders.stages(LAYERS, dict(enumerate(shares))).counts
    specs = ((layer, RankerSpec(name, tuple(params))) for layer, name, *params in rankers)
    return Policy(counts, rankers=tuple(specs))


def ranked_at_random(seed):
    """Return random counts per layer and module, with a ranker before each of two layers."""
    generator = np.random.default_rng(seed)
    counts = generator.integers(2, 13, (LAYERS, 3))
    counts[:2] = np.maximum(counts[:2], counts.max(1)[:2, None])
    names = generator.choice(["fastv", "fitprune", "pyramiddrop", "sparsevlm"], 2)
    first, second = sorted(generator.choice(np.arange(1, LAYERS), 2, replace=False).tolist())
    return ranked(counts, (0, "random"), (first, str(names[0])), (second, str(names[1])))


# Policies with rankers inside the decoder.
INSIDE = {
    "fastv": falling(1, 1, "1/3", rankers=[(2, "fastv")]),
    "fastv from layer 1 on": falling(1, "1/3", rankers=[(1, "fastv")]),
    "fastv, others chosen before": falling("2/3", "2/9", rankers=[(0, "random"), (1, "fastv")]),
    "fastv, of which some are updated": ranked(
        [[9, 9, 9], [5, 8, 6], [9, 3, 2], [2, 2, 2], [2, 4, 2]], (0, "random"), (2, "fastv")
    ),
    "fastv, none of which are updated": ranked(
        [[9, 9, 9], [0, 8, 0], [4, 4, 4], [3, 3, 3], [3, 3, 0]], (0, "random"), (2, "fastv")
    ),
    "pyramiddrop": falling(
        1, "1/2", "1/2", "2/9", "1/9", rankers=[(r, "pyramiddrop") for r in (1, 3, 4)]
    ),
    "pyramiddrop, others come back": ranked(
        [[9, 9, 9], [4, 4, 4], [4, 4, 4], [2, 3, 2], [9, 9, 9]],
        (0, "random"),
        (2, "pyramiddrop"),
    ),
    "sparsevlm": falling(
        1, "2/3", "2/3", "2/9", rankers=[(1, "sparsevlm"), (3, "sparsevlm", ("heads", 0.4))]
    ),
    "fitprune": ranked(
        [[7, 9, 7], [5, 7, 5], [5, 5, 5], [2, 5, 2], [2, 2, 2]],
        *((layer, "fitprune") for layer in (0, 1, 3)),
    ),
    "two at once": falling(
        1, 1, "7/9", "4/9", "2/9", rankers=[(2, "pyramiddrop"), (3, "fastv"), (4, "sparsevlm")]
    ),
    **{f"ranked at random {seed}": ranked_at_random(seed) for seed in (6, 7)},
}
POLICIES = {
    **INSIDE,
    "tokens, cls": builders.tokens(LAYERS, "1/3", CLS),
    "tokens, uniform": builders.tokens(LAYERS, "2/5", UNIFORM),
    "tokens, random": builders.tokens(LAYERS, "1/2", RankerSpec("random", (("seed", 3),))),
    "dop, kv leaves": builders.dop(LAYERS, 3, 2, "1/2", CLS),
    "dop, kv leaves, mlp longer": builders.dop(LAYERS, 2, 5, "1/2", CLS),
    "dop, kv stays": builders.dop(LAYERS, 3, 2, "1/2", CLS, kv="stays"),
    "dop, no attention": builders.dop(LAYERS, 0, 3, kv="stays"),
    "dop, nothing pruned but the mlp": builders.dop(LAYERS, LAYERS, 2),
    "depth, reading longest": builders.depth(LAYERS, 2, 4, 3, "2/3", CLS),
    "depth, updating longest": builders.depth(LAYERS, 5, 2, 5, "2/3", UNIFORM),
    "depth, q before kv": builders.depth(LAYERS, 4, 3, 1),
    "vtw at 0": builders.vtw(LAYERS, 0),
    "vtw in the middle": builders.vtw(LAYERS, 2),
    "vtw at the end": builders.vtw(LAYERS, LAYERS),
    "shortv": builders.shortv(LAYERS, [0, 1, 3]),
    "shortv, last layer": builders.shortv(LAYERS, [LAYERS - 1]),
    "stages": builders.stages(LAYERS, {0: 1, 1: "1/2", 3: "1/9"}, CLS),
    "stages, uniform": builders.stages(LAYERS, {0: 1, 2: "1/3"}, UNIFORM),
    "stages, growing": builders.stages(LAYERS, {0: 0, 2: "1/2", 4: 1}, RANDOM),
    "tokens, in numbers": tokens([[4, 4, 4]] * LAYERS, UNIFORM),
    "tokens, more than there are": tokens([[99, 99, 99]] * LAYERS),
    "rows without any key": tokens([[9, 0, 9], [9, 0, 5], [4, 9, 9], [3, 2, 9], [9, 9, 9]]),
    **{f"random counts {seed}": random_counts(seed) for seed in range(8)},
}


def has_cls(family):
    """Return whether the family's tower has a [CLS] to rank by."""
    config = built(family.model_type, LAYERS).config
    return family.unsupported_reason(config, "cls_attention") is None


def with_rankers_of(family):
    """Return the policies, ranked at random where the family has no [CLS] to rank by."""
    if has_cls(family):
        return POLICIES
    return {name: _random_instead(policy) for name, policy in POLICIES.items()}


def _random_instead(policy):
    rankers = tuple((layer, RANDOM if spec == CLS else spec) for layer, spec in policy.rankers)
    return Policy(policy.counts, policy.unit, rankers, policy.name)
