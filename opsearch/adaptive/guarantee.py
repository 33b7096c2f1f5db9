"""An upper limit on the mean loss of new samples, from samples that had no part in a choice.

The limit holds with a given confidence for any distribution of losses from 0 to 1, as long as new
samples come from the same one. Source: Hoeffding-Bentkus bound of risk-controlling prediction sets
(Bates et al., Journal of the ACM 2021, arXiv 2101.02703); of losses that are 0 or 1 it is the exact
binomial limit (Clopper and Pearson, 1934).
"""

from __future__ import annotations

from math import ceil, e, exp, log

from opsearch.adaptive.table import Values

CONFIDENCE = 0.95
_BISECTIONS = 40


def loss_limit(losses: Values, confidence: float = CONFIDENCE) -> float:
    """Return what the mean loss of new samples is at most, with the given confidence.

    Args:
        losses: Losses of independent samples, 0 to 1, float64[S].
        confidence: Chance that the limit holds, over the draw of the samples.

    Raises:
        ValueError: There are no losses, or one is not from 0 to 1.
    """
    if not len(losses) or losses.min() < 0 or losses.max() > 1:
        raise ValueError("a limit takes one loss from 0 to 1 at least")
    mean, binary = float(losses.mean()), bool(((losses == 0) | (losses == 1)).all())
    low, high = mean, 1.0
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        if _chance_of_less(mean, middle, len(losses), binary) > 1 - confidence:
            low = middle
        else:
            high = middle
    return high


def _chance_of_less(mean: float, true: float, samples: int, binary: bool) -> float:
    """Return a bound on the chance of a mean this small or smaller where `true` is expected."""
    from scipy.stats import binom

    if binary:
        return float(binom.cdf(round(mean * samples), samples, true))
    bentkus = e * float(binom.cdf(ceil(mean * samples - 1e-9), samples, true))
    return min(bentkus, exp(-samples * _divergence(mean, true)))


def _divergence(mean: float, true: float) -> float:
    """Return KL(mean || true) of two coins in nats, for mean <= true."""
    if true >= 1:
        return float("inf") if mean < 1 else 0.0
    heads = mean * log(mean / true) if mean else 0.0
    return heads + ((1 - mean) * log((1 - mean) / (1 - true)) if mean < 1 else 0.0)
