"""The limit of the loss holds as often as it says, whatever the losses look like."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import beta

from opsearch.adaptive.guarantee import loss_limit

DRAWS = 200
LOSSES = {
    "rare": lambda draw, n: (draw.random(n) < 0.02).astype(float),
    "common": lambda draw, n: (draw.random(n) < 0.4).astype(float),
    "fractions": lambda draw, n: np.round(draw.beta(0.3, 1.2, n), 1),
    "mixed": lambda draw, n: np.where(draw.random(n) < 0.9, 0.0, draw.random(n)),
}


@pytest.mark.parametrize("samples", [30, 300])
@pytest.mark.parametrize("kind", LOSSES)
def test_the_limit_holds_in_at_least_95_of_100_draws(kind, samples):
    true = LOSSES[kind](np.random.default_rng(0), 10**6).mean()
    draws = (LOSSES[kind](np.random.default_rng(1 + k), samples) for k in range(DRAWS))
    held = sum(loss_limit(losses) >= true for losses in draws)
    # Three standard errors of 200 draws at 95 %.
    assert held / DRAWS >= 0.95 - 3 * (0.95 * 0.05 / DRAWS) ** 0.5


@given(st.integers(1, 400), st.data(), st.sampled_from([0.8, 0.95, 0.99]))
@settings(max_examples=60)
def test_losses_of_0_and_1_have_the_exact_binomial_limit(samples, data, confidence):
    lost = data.draw(st.integers(0, samples))
    losses = np.arange(samples) < lost
    exact = 1.0 if lost == samples else beta.ppf(confidence, lost + 1, samples - lost)
    assert loss_limit(losses.astype(float), confidence) == pytest.approx(exact, abs=1e-9)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=60))
@settings(max_examples=60)
def test_the_limit_is_above_the_mean_and_rises_with_the_confidence(losses):
    losses = np.array(losses)
    found = [loss_limit(losses, confidence) for confidence in (0.5, 0.9, 0.99)]
    assert losses.mean() <= found[0] + 1e-9
    assert found == sorted(found)
    assert found[-1] <= 1


def test_more_samples_of_equal_losses_lower_the_limit():
    few, many = (np.repeat([0.0, 0.3, 0.0, 0.0], times) for times in (10, 100))
    assert loss_limit(many) < loss_limit(few)


@pytest.mark.parametrize("losses", [[], [1.2], [-0.1, 0.5]])
def test_what_is_no_loss_is_refused(losses):
    with pytest.raises(ValueError, match="0 to 1"):
        loss_limit(np.array(losses))
