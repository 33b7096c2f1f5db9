"""torch.compile under a policy: answers stay equal, and decoding is compiled as the original's.

The backend counts graphs and runs them eagerly, so that no compiler is needed.
"""

import pytest
import torch
from torch._dynamo import config
from torch._dynamo.utils import counters

from opsearch.errors import PolicyError
from opsearch.models.families import family_for
from opsearch.policy import builders
from opsearch.policy.ranker import RankerSpec
from opsearch.rankers import known_ranker
from tests.models.judge import TOLERANCE
from tests.support import tiny
from tests.support.messages import refuses

LAYERS = 9  # more than torch compiles of one function (recompile_limit)
# Prompts of several lengths, with several images, and padded batches.
BATCHES = [[[3, 4]], [[2, 3, 7]], [[3, 4], [1, 0, 6]]]
LIMIT = "Dynamo recompile limit exceeded"


@pytest.fixture(autouse=True)
def compiler():
    """Start each test without compiled code, and count what it compiles."""
    torch.compiler.reset()
    counters.clear()
    with torch.no_grad():
        yield
    torch.compiler.reset()


def policy_of(layers):
    return builders.dop(layers, 2 * layers // 3, layers // 2, "1/2", RankerSpec("random"))


def endless(layers):
    model = tiny.llava(layers)
    model.generation_config.eos_token_id = 10**6
    return model


def answers(model, layouts):
    """Return the logits of a few generated tokens for each batch."""
    options = {"max_new_tokens": 3, "do_sample": False, "output_logits": True}
    outputs = [
        model.generate(**tiny.prompts(each), **options, return_dict_in_generate=True)
        for each in layouts
    ]
    return [torch.stack(output.logits) for output in outputs]


class Graphs:
    """A backend that counts graphs and runs them eagerly."""

    def __init__(self):
        self.count = 0

    def __call__(self, graph, inputs):
        self.count += 1
        return graph.forward


def compiled_parts(model, part):
    decoder = model.model.language_model
    return {"model": [model], "decoder": [decoder], "layers": decoder.layers}[part]


def check_equal(model, part, layouts, backend):
    """Compare the answers under a policy before and after a part of the model is compiled."""
    with policy_of(LAYERS).apply(model):
        wanted = answers(model, layouts)
        for module in compiled_parts(model, part):
            module.compile(backend=backend)
        for found, each in zip(answers(model, layouts), wanted, strict=True):
            torch.testing.assert_close(found, each, rtol=0, atol=TOLERANCE)


def test_the_decoder_is_compiled_as_one_however_many_layers_it_has():
    counts = []
    for layers in (2, LAYERS):
        torch.compiler.reset()
        model, backend = endless(layers), Graphs()
        model.model.language_model.compile(backend=backend)
        with policy_of(layers).apply(model):
            model(**tiny.prompts([[3, 4]]))
            assert backend.count == 0, "the prefill runs eagerly"
            answers(model, BATCHES[:1])
        counts.append(backend.count)
    assert counts[0] == counts[1] > 0
    assert LIMIT not in " ".join(counters["unimplemented"])


@pytest.mark.slow
@pytest.mark.parametrize("part", ["decoder", "model"])
def test_prompts_of_many_shapes_under_the_documented_limit(part):
    """Each kind of mask, and each kind of cache, is compiled once more, see docs/limits.md."""
    with config.patch(recompile_limit=64):
        check_equal(endless(LAYERS), part, BATCHES, Graphs())
    assert LIMIT not in " ".join(counters["unimplemented"])


@pytest.mark.slow
def test_beyond_the_limit_answers_stay_equal():
    with config.patch(recompile_limit=2):
        check_equal(endless(LAYERS), "decoder", BATCHES, Graphs())
    assert LIMIT in " ".join(counters["unimplemented"])


@pytest.mark.slow
def test_layers_compiled_one_by_one_need_a_higher_limit():
    """As in the original: each of them is a case of its own."""
    with config.patch(recompile_limit=4 * LAYERS):
        check_equal(endless(LAYERS), "layers", BATCHES[:1], backend := Graphs())
    assert backend.count == 2 * LAYERS
    assert LIMIT not in " ".join(counters["unimplemented"])


@pytest.mark.slow
@pytest.mark.parametrize("part", ["decoder", "model"])
def test_a_policy_on_a_compiled_model(part):
    """Compiled before the block, used before, inside and after it."""
    model, inputs = endless(LAYERS), tiny.prompts([[3, 4]])
    stock = model(**inputs).logits
    with policy_of(LAYERS).apply(model):
        pruned = model(**inputs).logits
    for module in compiled_parts(model, part):
        module.compile(backend=Graphs())
    for _ in range(2):
        torch.testing.assert_close(model(**inputs).logits, stock, rtol=0, atol=TOLERANCE)
        with policy_of(LAYERS).apply(model):
            torch.testing.assert_close(model(**inputs).logits, pruned, rtol=0, atol=TOLERANCE)
    assert not torch.equal(stock, pruned)


@pytest.mark.slow
@pytest.mark.parametrize("ranker", family_for("llava").rankers(tiny.llava(1).config))
def test_rankers_that_read_the_attention_of_cls_are_refused(ranker):
    """A compiled tower runs without the hooks on its queries and keys."""
    model, inputs = tiny.llava(3), tiny.prompts([[3, 4]])
    policy = builders.dop(3, 2, 2, "1/2", RankerSpec(ranker))
    with policy.apply(model):
        wanted = model(**inputs).logits
    model.compile(backend=Graphs())
    model(**inputs)
    if "cls_attention" in known_ranker(RankerSpec(ranker)).needs:
        with refuses(PolicyError, "cls_attention", "compiled"), policy.apply(model):
            model(**inputs)
    else:
        with policy.apply(model):
            torch.testing.assert_close(model(**inputs).logits, wanted, rtol=0, atol=TOLERANCE)
