"""The random model for benchmarks of serving, and its policies."""

import torch

from benchmarks.serving_model import main
from opsearch import Policy
from opsearch.costs.shape import Shape
from opsearch.data.embedded import embedded
from opsearch.models.encoding import batch_inputs, encode
from opsearch.models.spec import ModelSpec
from opsearch.timing.policy_latency import flop_ratio


def test_its_images_have_the_tokens_asked_for_and_its_policies_the_cost(tmp_path):
    main([str(tmp_path), "--side=12", "--layers=4"])
    spec = ModelSpec(str(tmp_path / "model"))
    model, processor = spec.load(), spec.load_processor()
    (sample,) = encode(embedded("calibration", 1, 0), processor, model.config)
    assert sample.n_visual == 144
    shape = Shape.from_config(model.config)
    assert (shape.layers, shape.hidden) == (4, 1024)
    for budget in (30, 50):
        policy = Policy.from_pretrained(tmp_path / f"tokens-{budget}")
        share = 100 * flop_ratio(shape, policy, *sample.shape)
        assert budget - 2 < share <= budget
    with torch.no_grad(), policy.apply(model):
        assert model(**batch_inputs([sample], "cpu")).logits.isfinite().all()
