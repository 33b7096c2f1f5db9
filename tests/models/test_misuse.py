"""Misuse of a `with` block raises an error, and leaves model and cache usable."""

import copy
import re
import sys
import threading
from contextlib import nullcontext
from functools import partial

import pytest
import torch
from torch import nn
from transformers import DynamicCache, TextGenerationPipeline

from opsearch.errors import ModelError, PolicyError
from opsearch.models.pruned.cache import PrunedLayer
from opsearch.policy import builders
from opsearch.policy.ranker import RankerSpec
from tests.models.judge import TOLERANCE
from tests.models.test_apply import traces
from tests.support import tiny
from tests.support.messages import naming, refuses

pytestmark = pytest.mark.usefixtures("no_grad")

LAYERS = 4
HALF = builders.dop(LAYERS, 3, 2, "1/2", RankerSpec("random"))
STAYS = builders.dop(LAYERS, 3, 2, "1/2", RankerSpec("random"), kv="stays")


@pytest.fixture
def model():
    made = tiny.llava(LAYERS)
    made(**tiny.prompts([[3, 4]]))  # the vision tower installs its own hooks on first use
    return made


@pytest.fixture
def inputs():
    return tiny.prompts([[3, 4]])


class Wrapper(nn.Module):
    """A wrapper with all attributes of the model inside, like torch.compile's."""

    def __init__(self, inside):
        super().__init__()
        self.inside = inside

    def __getattr__(self, name):
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("inside"), name)


class Adapted(Wrapper):
    """A wrapper that replaces modules of the model, like peft's."""

    def __init__(self, inside):
        super().__init__(inside)
        self.model = nn.Identity()


@pytest.fixture
def quick_switches():
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("quick_switches")
def test_of_two_threads_that_come_at_once_one_is_refused(model, inputs):
    before, wanted, said = traces(model), [], []
    for policy in (HALF, STAYS):
        with policy.apply(model):
            wanted.append(model(**inputs).logits)

    def prune(number, policy, gate):
        gate.wait()
        try:
            with torch.no_grad(), policy.apply(model):
                said.append(torch.equal(model(**inputs).logits, wanted[number]))
        except PolicyError as error:
            said.append(str(error))

    for _ in range(40):
        gate = threading.Barrier(2)
        threads = [
            threading.Thread(target=prune, args=(number, policy, gate))
            for number, policy in enumerate((HALF, STAYS))
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert traces(model) == before
    refused = {each for each in said if isinstance(each, str)}
    assert len(said) == 80
    assert all(re.search(naming("applied", "`with`"), each) for each in refused)
    assert {each for each in said if not isinstance(each, str)} == {True}


@pytest.mark.parametrize("wrap", [Adapted, nn.Sequential, lambda model: None])
def test_what_is_around_a_model_is_refused_and_locks_nothing(model, inputs, wrap):
    with refuses(ModelError, "model.get_base_model()", "model.module"):
        HALF.apply(wrap(model)).__enter__()
    with HALF.apply(model):
        model(**inputs)


@pytest.mark.parametrize("take", ["apply", "install"])
def test_a_pipeline_is_refused_in_favour_of_its_model(model, inputs, take):
    pipe = TextGenerationPipeline.__new__(TextGenerationPipeline)
    pipe.model = model
    with refuses(ModelError, "TextGenerationPipeline", "pipe.model"):
        if take == "apply":
            HALF.apply(pipe).__enter__()
        HALF.install(pipe)
    with HALF.apply(pipe.model):
        model(**inputs)


def test_a_wrapper_is_no_second_model(model):
    with HALF.apply(model), refuses(PolicyError, "applied", "`with`"):
        STAYS.apply(Wrapper(model)).__enter__()


@pytest.mark.parametrize("layout", [[[3, 4]], [[3, 11], [1, 0, 4], [23]]], ids=["one", "batch"])
def test_a_cache_made_under_a_policy_is_refused_outside_of_the_block(model, layout):
    inputs = tiny.prompts(layout)
    token = torch.full((len(layout), 1), 7)
    with HALF.apply(model):
        cache = model(**inputs).past_key_values
        kept = copy.deepcopy(cache)
        wanted = model(input_ids=token, past_key_values=cache).logits
    with refuses(PolicyError, "cache", "`with policy.apply(model)`"):
        model(input_ids=token, past_key_values=copy.deepcopy(kept))
    with HALF.apply(model):
        again = model(input_ids=token, past_key_values=kept).logits
    assert torch.equal(again, wanted)


@pytest.mark.parametrize("length", [7, 16])
def test_a_refused_prompt_leaves_its_cache_usable(model, inputs, length):
    """The next prompt has no image, and as many tokens as the refused one or fewer."""
    mine, text = DynamicCache(), torch.arange(10, 10 + length)[None]
    wanted = model(input_ids=text).logits
    missing = inputs["input_ids"].clone()
    missing[0, 5] = 9
    with HALF.apply(model):
        with refuses(PolicyError, 8, 9, "input_ids", "pixel_values"):
            model(**{**inputs, "input_ids": missing}, past_key_values=mine)
        assert torch.equal(model(input_ids=text, past_key_values=mine).logits, wanted)


def test_a_model_under_a_policy_is_not_copied(model, inputs):
    stock = model(**inputs).logits
    with HALF.apply(model), refuses(PolicyError, "copy", "`with`"):
        copy.deepcopy(model)
    assert torch.equal(copy.deepcopy(model)(**inputs).logits, stock)


@torch.inference_mode(False)
def test_gradient_checkpointing_prunes_or_is_refused():
    """Older transformers withhold the cache from the layers, newer ones do not."""
    model, inputs = tiny.llava(LAYERS), tiny.prompts([[3, 4]])
    with HALF.apply(model):
        wanted = model(**inputs).logits
    model.train()
    older = not hasattr(model, "activation_checkpointing_enable")
    (model.gradient_checkpointing_enable if older else model.activation_checkpointing_enable)()
    refused = refuses(PolicyError, "model.gradient_checkpointing_disable()")
    with HALF.apply(model), refused if older else nullcontext():
        assert (model(**inputs).logits - wanted).abs().max() <= TOLERANCE


def test_a_step_cuts_its_mask_once_for_layers_of_equal_columns(model, monkeypatch):
    """Three layers keep half of the visual tokens, one keeps none."""
    inputs, cuts, cut = tiny.prompts([[3, 4], [9, 4]]), [], PrunedLayer.visible
    with HALF.apply(model):
        cache = model(**inputs).past_key_values
        monkeypatch.setattr(
            PrunedLayer, "visible", lambda *args: cuts.append(args[0]) or cut(*args)
        )
        mask = torch.nn.functional.pad(inputs["attention_mask"], (0, 1), value=1)
        step = partial(model, input_ids=torch.full((2, 1), 7), attention_mask=mask)
        step(past_key_values=cache)
    assert len(cuts) == 2 < LAYERS


def test_a_mask_that_is_no_tensor_is_refused(model, inputs):
    given = {**inputs, "attention_mask": {"full_attention": inputs["attention_mask"]}}
    with HALF.apply(model), refuses(PolicyError, "attention_mask", "processor"):
        model(**given)
