"""Suite `token-reduction`: KL divergence where all layers keep the tokens that a ranker puts first.

The embedded model is trained, and small enough for any machine. Its tower is CLIP's in small, with
a [CLS] and two layers, so that rankers for towers without [CLS] are compared with `cls` itself.
Samples are held-out ones, drawn with three seeds.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from benchmarks.rows import BenchmarkRow

RANKERS = (
    "uniform",
    "random",
    "divprune",
    "otprune",
    "mmtok",
    "mmtok(text=0)",
    "received(layer=0)",
    "received(layer=1)",
    "cls",
    "vispruner",
)
SHARES = ("50%", "30%", "15%")
_DRAWS, _SAMPLES = 3, 64


def token_reduction(tiny: bool) -> Iterator[BenchmarkRow]:
    """Yield a row per ranker and share of the visual tokens: mean KL in nats of each draw."""
    import opsearch
    from opsearch.policy import builders
    from opsearch.policy.ranker import parse_ranker

    model, processor = opsearch.load_model("demo")
    layers = model.config.get_text_config().num_hidden_layers
    cases = [(ranker, share) for ranker in RANKERS for share in SHARES]
    policies = [
        builders.tokens(layers, f"{share.removesuffix('%')}/100", parse_ranker(ranker))
        for ranker, share in cases
    ]
    draws = []
    for seed in range(1 if tiny else _DRAWS):
        number = 2 if tiny else _SAMPLES
        items = opsearch.load_items("demo", samples=number, split="held-out", seed=seed)
        draws.append(opsearch.measure_kl(model, processor, items, policies).mean(1))
    for (ranker, share), kl in zip(cases, np.transpose(draws), strict=True):
        mean, *each = (round(float(value), 4) for value in (kl.mean(), *kl))
        yield {"ranker": ranker, "tokens": share, "kl": mean, "draws": each}
