"""The divergence of fractional token counts: at whole tokens the engine's, and its gradient."""

import numpy as np
import pytest
import torch

from opsearch.errors import ModelError
from opsearch.measure.engine import Engine
from opsearch.measure.relaxed.gradient import RelaxedDivergence, bounded, gates
from opsearch.measure.sweep.originals import Originals
from opsearch.models.families import family_for
from opsearch.policy.ranker import RankerSpec
from opsearch.rankers import make_ranker
from tests.measure import demo, families
from tests.measure.test_engine_families import TOLERANCE, encoded, longer
from tests.models.policies import LAYERS
from tests.support import tiny
from tests.support.families import EACH, FAMILIES
from tests.support.families.prompt import prompts

PLENTY = 10**9
DIVPRUNE = RankerSpec("divprune")
SHARP = 1e-4  # of this width, gates at whole numbers of tokens are 0 or 1
SEVERAL = [
    families.sample(runs, seed) for runs in ([3, 4], [6], [2, 3, 4]) for seed in range(2)
] + [families.sample(runs) for runs in ([3, 6], [2, 0, 5])]


def relaxed(model, samples, positions=1, memory=PLENTY, ranker=families.CLS):
    return RelaxedDivergence(Originals(model, positions), samples, make_ranker(ranker), memory)


def random_tokens(layers, n_visual, seed):
    """Return random numbers of tokens, some of them none and some all, and them as shares."""
    counts = np.random.default_rng(seed).integers(-2, n_visual + 3, (layers, 3))
    counts = counts.clip(0, n_visual)
    return counts, counts / n_visual


def check_whole_tokens(model, samples, store, positions=1, ranker=families.CLS):
    """Compare with the engine, at random numbers of tokens; all samples have equally many."""
    assert len({sample.n_visual for sample in samples}) == 1
    layers = model.config.text_config.num_hidden_layers
    found = relaxed(model, samples, positions, ranker=ranker)
    engine = Engine(model, store, positions)
    for seed in range(2):
        counts, shares = random_tokens(layers, samples[0].n_visual, seed)
        (wanted,) = engine.measure([families.of_counts(counts, ranker)], samples)
        kl, _ = found(shares, SHARP, range(len(samples)))
        assert np.abs(kl - wanted).max() <= TOLERANCE * max(1, wanted.max())
        assert wanted.max() > 1000 * TOLERANCE  # the comparison is of something


@pytest.mark.parametrize(
    ("decoder", "positions"), [("llama", 1), ("llama", 3), ("qwen2", 2), ("qwen3", 2)]
)
def test_whole_tokens_have_the_divergence_of_their_policy(decoder, positions, store):
    for runs in families.LAYOUTS:
        one_longer = [*runs[:-1], runs[-1] + 1]
        samples = [families.sample(runs, 0), families.sample(runs, 1), families.sample(one_longer)]
        check_whole_tokens(families.model(decoder), samples, store, positions)


@pytest.mark.parametrize("name", EACH)
def test_in_every_family(name, store):
    model = FAMILIES[name].model(LAYERS, "sdpa")
    model.generation_config.suppress_tokens = [tiny.IMAGE, tiny.VIDEO]
    inputs = [prompts(FAMILIES[name], [[3, 4]], seed) for seed in (0, 2)]  # of equal numbers
    samples = [encoded(model, each) for each in (*inputs, longer(inputs[0]))]
    check_whole_tokens(model, samples, store, 2, DIVPRUNE)
    if "cls" not in family_for(name).unsupported_rankers(model.config):  # reads the vision tower
        check_whole_tokens(model, samples, store, 2, families.CLS)


def test_on_the_embedded_model(store):
    check_whole_tokens(demo.model(), demo.samples(4), store, 2)


def test_of_eager_attention(store):
    check_whole_tokens(families.model(attention="eager"), [families.sample([3, 4])], store)


@pytest.fixture(scope="module")
def whole():
    """Shares and a width at which all samples of `SEVERAL` have fractional counts, and their KL."""
    shares = np.random.default_rng(5).random((families.LAYERS, 3))
    return shares, 0.2, relaxed(families.model(), SEVERAL)(shares, 0.2, range(6))


def test_samples_of_any_layout_in_one_call_keep_their_order(whole):
    """Those without visual tokens are left out, and do not count in the numbers."""
    shares, width, (kl, gradient) = whole
    found = relaxed(families.model(), SEVERAL)
    assert [sample.n_visual for sample in found.samples] == [9, 9, 18, 18, 9, 18]
    single = [found(shares, width, [index]) for index in range(6)]
    np.testing.assert_allclose(kl, [one[0] for one, _ in single], rtol=0, atol=1e-5)
    mean = np.mean([slope for _, slope in single], axis=0)
    np.testing.assert_allclose(gradient, mean, rtol=0, atol=1e-5)
    order = [4, 0, 3, 2, 5, 1]
    mixed, _ = relaxed(families.model(), SEVERAL)(shares, width, order)
    np.testing.assert_allclose(mixed, kl[order], rtol=0, atol=1e-5)


def test_a_small_memory_makes_smaller_batches_of_the_same_numbers(whole):
    shares, width, (kl, gradient) = whole
    sizes = []
    small = relaxed(families.model(), SEVERAL, memory=1)
    measured = small._measured

    def counted(shares, width, batch, reference):
        sizes.append(len(batch.samples))
        return measured(shares, width, batch, reference)

    small._measured = counted
    one_by_one, slope = small(shares, width, range(6))
    assert sizes == [1] * 6
    np.testing.assert_allclose(one_by_one, kl, rtol=0, atol=1e-5)
    np.testing.assert_allclose(slope, gradient, rtol=0, atol=1e-5)


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_threads_share_the_samples_and_change_nothing(whole, threads):
    shares, width, (kl, gradient) = whole
    found, before = relaxed(families.model(), SEVERAL), torch.get_num_threads()
    found.threads = threads
    for _ in range(2):
        together, slope = found(shares, width, range(6))
        np.testing.assert_allclose(together, kl, rtol=0, atol=1e-5)
        np.testing.assert_allclose(slope, gradient, rtol=0, atol=1e-5)
    assert torch.get_num_threads() == before


def test_an_error_in_a_thread_is_raised(whole):
    shares, width, _ = whole
    found, before = relaxed(families.model(), SEVERAL), torch.get_num_threads()
    found.threads = 2
    found._measured = lambda *given: 1 / 0
    with pytest.raises(ZeroDivisionError):
        found(shares, width, range(6))
    assert torch.get_num_threads() == before


def test_samples_that_are_not_kept_are_measured_again(whole, monkeypatch):
    shares, width, (kl, _) = whole
    monkeypatch.setattr("opsearch.measure.sweep.originals._KEPT_BYTES", 1)
    found = relaxed(families.model(), SEVERAL)
    for _ in range(2):
        np.testing.assert_allclose(found(shares, width, range(6))[0], kl, rtol=0, atol=1e-5)


def test_the_gradient_is_that_of_finite_differences():
    model = families.model("qwen3", dtype=torch.float64)
    measured = relaxed(model, SEVERAL, positions=2)
    shares = np.random.default_rng(1).uniform(0.1, 0.9, (families.LAYERS, 3))
    width, indices, step = 0.25, [0, 2, 4], 2.0**-9
    _, gradient = measured(shares, width, indices)
    for at in np.ndindex(*shares.shape):
        ends = [shares.copy(), shares.copy()]
        ends[0][at] -= step
        ends[1][at] += step
        low, high = (bounded(measured(end, width, indices)[0]).mean() for end in ends)
        assert gradient[at] == pytest.approx((high - low) / (2 * step), rel=0.02, abs=2e-4)
    dead = gradient[-1, [0, 2]]  # nothing reads the last layer's visual states
    assert not dead.any()
    assert (np.abs(gradient) > 1e-3).mean() > 0.5


def test_the_model_is_left_as_it_was():
    model = tiny.llava(3)
    for number, parameter in enumerate(model.parameters()):
        parameter.requires_grad_(number % 3 > 0)

    def state():
        hooks = [(m._forward_hooks, m._forward_pre_hooks, m.training) for m in model.modules()]
        flags = [(p.requires_grad, p.grad) for p in model.parameters()]
        return [(dict(a), dict(b), c) for a, b, c in hooks], flags

    samples = [families.sample([3, 4])]
    model(**samples[0].inputs)  # transformers installs hooks of its own at first
    before = state()
    half = np.full((3, 3), 0.5)
    relaxed(model, samples)(half, 0.1, [0])
    assert state() == before
    model.model.language_model.layers[1].mlp.up_proj.weight.data.fill_(torch.nan)
    before = state()
    with pytest.raises(ModelError, match="not finite"):
        relaxed(model, samples)(half, 0.1, [0])
    assert state() == before


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_gradients_are_found_where_the_caller_wants_none(whole, mode):
    shares, width, (kl, gradient) = whole
    with mode():
        found, slope = relaxed(families.model(), SEVERAL)(shares, width, range(6))
    np.testing.assert_allclose(found, kl, rtol=0, atol=1e-5)
    np.testing.assert_allclose(slope, gradient, rtol=0, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_comes_near(whole, dtype):
    shares, width, (kl, gradient) = whole
    found, slope = relaxed(families.model(dtype=dtype), SEVERAL)(shares, width, range(6))
    assert found.dtype == slope.dtype == np.float64
    np.testing.assert_allclose(found, kl, rtol=0.2, atol=0.02)
    assert np.corrcoef(slope.ravel(), gradient.ravel())[0, 1] > 0.98


def test_gates_fall_around_the_share():
    shares = torch.tensor([[0.0, 0.5, 1.0]], dtype=torch.float64)
    (none, half, every), n = gates(shares, 0.1, 100)[0].numpy(), 100
    rank = (np.arange(n) + 0.5) / n
    assert (np.diff(half) <= 0).all()
    assert (half[rank < 0.4] == 1).all()
    assert (half[rank > 0.6] == 0).all()
    assert half.mean() == pytest.approx(0.5, abs=1e-6)
    assert 0 < none[0] < 1, "an operation without tokens can return"
    assert none.mean() < 0.02
    assert every.mean() > 0.98
    sharp = gates(shares, SHARP, n)[0].numpy()
    assert sharp.sum(-1).tolist() == [0, 50, 100]
