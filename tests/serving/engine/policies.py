"""Policies of the embedded model of every kind that vLLM serves."""

from fractions import Fraction

from opsearch import Policy, RankerSpec, builders

LAYERS = 12
DIVPRUNE, RANDOM = RankerSpec("divprune"), RankerSpec("random", (("seed", 3),))
SHARES = [  # of q, kv and mlp in each layer, in percent; kept tokens leave and come back
    *[(100, 100, 100), (60, 100, 80), (50, 70, 90), (90, 50, 30), (40, 40, 100), (25, 80, 0)],
    *[(10, 60, 50), (0, 50, 20), (30, 30, 30), (0, 25, 0), (0, 10, 0), (0, 0, 0)],
]
FREE = Policy(
    tuple(tuple(Fraction(share, 100) for share in triple) for triple in SHARES),
    rankers=((0, DIVPRUNE),),
)
STAYING = {  # all layers keep the same keys, which other requests may read
    "identity": builders.identity(LAYERS),
    "tokens": builders.tokens(LAYERS, "1/4", DIVPRUNE),
    "dop, keys stay": builders.dop(LAYERS, 5, 8, "1/2", DIVPRUNE, kv="stays"),
    "dop of all tokens, keys stay": builders.dop(LAYERS, 5, 8, 1, None, kv="stays"),
}
LEAVING = {
    "dop, keys leave": builders.dop(LAYERS, 6, 6, "3/5", DIVPRUNE, kv="leaves"),
    "vtw": builders.dop(LAYERS, 6, 6, 1, None, kv="leaves"),
    "depth": builders.depth(LAYERS, 4, 9, 7, "7/10", RANDOM),
    "free": FREE,
}
POLICIES = STAYING | LEAVING
