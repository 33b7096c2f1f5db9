"""The suite `token-reduction` measures each ranker at each share of the tokens."""

import numpy as np
import pytest

import opsearch
from benchmarks.token_reduction import RANKERS, SHARES, token_reduction
from opsearch.policy import builders
from opsearch.policy.ranker import RankerSpec


@pytest.mark.slow
def test_a_row_per_ranker_and_share():
    rows = list(token_reduction(tiny=True))
    found = {(row["ranker"], row["tokens"]): row["kl"] for row in rows}
    assert set(found) == {(ranker, share) for ranker in RANKERS for share in SHARES}
    model, processor = opsearch.load_model("demo")
    items = opsearch.load_items("demo", samples=2, split="held-out")
    policy = builders.tokens(12, "3/20", RankerSpec("uniform"))
    alone = opsearch.measure_kl(model, processor, items, [policy])
    np.testing.assert_allclose(found["uniform", "15%"], alone.mean(), atol=1e-4)
