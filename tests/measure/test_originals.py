"""Each sample's original is run once, and is the same in every batch."""

import numpy as np
import pytest
import torch

from opsearch.measure.engine import Engine
from opsearch.measure.relaxed.gradient import RelaxedDivergence
from opsearch.measure.sweep import originals
from opsearch.measure.sweep.original import make_reference
from opsearch.measure.sweep.originals import Originals
from opsearch.models.supported import check_supported
from opsearch.rankers import make_ranker
from tests.measure import families

NEEDS = ("cls_attention", "vision_features", "tiles")
SAMPLES = [families.sample([3, 4], seed) for seed in range(4)] + [families.sample([3, 6])]
BATCHES = ([0, 1], [1, 2, 0], [4, 3, 1], [2, 4], [0, 1, 2, 3, 4])


@pytest.fixture
def rows():
    """Numbers of samples of all forwards of the model's decoder, as they are run."""
    model, sizes = families.model(), []
    decoder = model.get_submodule(check_supported(model).decoder)
    hook = decoder.register_forward_hook(lambda module, args, out: sizes.append(len(out[0])))
    yield sizes
    hook.remove()


def check_same(found, samples, needs=()):
    """Compare a reference with forwards of each sample alone."""
    for row, (part, sample) in enumerate(zip(found.split(), samples, strict=True)):
        model = families.model()
        alone = make_reference(
            model, check_supported(model), [sample], needs, found.logits.shape[1]
        )
        length = alone.embeds.shape[1]
        torch.testing.assert_close(part.embeds[:, :length], alone.embeds)
        torch.testing.assert_close(part.logits, alone.logits)
        numbers = part.position_ids[..., :length]
        assert torch.equal(numbers.expand_as(alone.position_ids), alone.position_ids)
        assert torch.equal(part.prompt.visual[:, :length], alone.prompt.visual)
        assert not part.prompt.real[:, length:].any()
        assert part.prompt.n_visual == (sample.n_visual,) == found.prompt.n_visual[row : row + 1]
        assert set(needs) <= part.prompt.captured.keys()
        for name in needs:
            assert len(part.prompt.captured[name]) == sample.n_visual
        if needs:
            wanted = alone.prompt.captured
            torch.testing.assert_close(
                part.prompt.captured["cls_attention"], wanted["cls_attention"]
            )
            torch.testing.assert_close(
                part.prompt.captured["vision_features"], wanted["vision_features"]
            )


@pytest.mark.parametrize("positions", [1, 3])
@pytest.mark.parametrize("needs", [(), NEEDS], ids=str)
@pytest.mark.parametrize("kept", [10**9, 10**5, 0])
def test_in_every_batch_a_sample_has_the_original_of_it_alone(kept, needs, positions, monkeypatch):
    monkeypatch.setattr(originals, "_KEPT_BYTES", kept)
    found = Originals(families.model(), positions)
    for numbers in BATCHES:
        samples = [SAMPLES[number] for number in numbers]
        check_same(found.of(samples, needs), samples, needs)


def test_a_sample_is_run_once(rows):
    found = Originals(families.model(), 1)
    for numbers in BATCHES:
        found.of([SAMPLES[number] for number in numbers])
    assert sum(rows) == len(SAMPLES)
    found.of(SAMPLES, NEEDS)  # not captured before
    found.of(SAMPLES[:2])
    assert sum(rows) == 2 * len(SAMPLES)


def test_a_descent_and_a_race_run_each_sample_once(rows, store):
    engine = Engine(families.model(), store)
    ranker, half = make_ranker(families.CLS), np.full((families.LAYERS, 3), 0.5)
    gradient = RelaxedDivergence(engine.passes.originals, SAMPLES, ranker, 10**9)
    for numbers in BATCHES:
        gradient(half, 0.1, numbers)
    policies = [families.of_counts(np.full((families.LAYERS, 3), n)) for n in (2, 5)]
    for numbers in BATCHES:
        engine.measure(policies, [SAMPLES[number] for number in numbers])
    assert sum(rows) == len(SAMPLES)


def test_without_memory_for_them_every_call_runs_them(rows, monkeypatch):
    monkeypatch.setattr(originals, "_KEPT_BYTES", 0)
    found = Originals(families.model(), 1)
    for _ in range(3):
        found.of(SAMPLES[:4])
    assert rows == [4, 4, 4]


@pytest.mark.parametrize(("limit", "kept"), [(10**9, 5), (0, 0)])
def test_prepared_samples_run_in_large_batches_as_far_as_they_are_kept(
    limit, kept, rows, monkeypatch
):
    monkeypatch.setattr(originals, "_KEPT_BYTES", limit)
    found = Originals(families.model(), 1)
    gradient = RelaxedDivergence(found, SAMPLES, make_ranker(families.CLS), 10**9)
    gradient.prepare()
    assert rows == ([4, 1] if kept else [4])  # the fifth has another shape
    gradient(np.full((families.LAYERS, 3), 0.5), 0.1, [0, 4])
    assert sum(rows) == (5 if kept else 8)


def test_a_descent_takes_what_was_kept_in_inference_mode(rows, store):
    engine = Engine(families.model(), store)
    with torch.inference_mode():
        engine.measure([families.of_counts(np.full((families.LAYERS, 3), 2))], SAMPLES)
    ranker, half = make_ranker(families.CLS), np.full((families.LAYERS, 3), 0.5)
    gradient = RelaxedDivergence(engine.passes.originals, SAMPLES, ranker, 10**9)
    for numbers in BATCHES:
        kl, slope = gradient(half, 0.1, numbers)
        assert kl.all()
        assert slope.any()
    assert sum(rows) == len(SAMPLES)


def test_names_of_one_vision_layer_leave_the_model_as_it_was():
    """Both replace a setting of one attention module; the first change is undone last."""
    model = families.model()
    attention = model.model.vision_tower.encoder.layers[1].self_attn
    before, names = attention.config, ("received_attention:0.5", "received_attention:1")
    reference = make_reference(model, check_supported(model), SAMPLES[:1], names, 1)
    values = [reference.prompt.captured[name] for name in names]
    assert torch.equal(*values)
    assert attention.config is before
