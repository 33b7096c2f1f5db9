"""Served policies give the answers of transformers to each prompt alone."""

from functools import partial

import pytest
import torch
from vllm.model_executor.model_loader import utils
from vllm.model_executor.models import ModelRegistry
from vllm.model_executor.models.config import MODELS_CONFIG_MAP
from vllm.model_executor.models.llava import LlavaForConditionalGeneration

from opsearch import RankerSpec, builders
from opsearch.data.embedded import embedded
from opsearch.errors import ModelError
from opsearch.serving import self_check
from opsearch.serving.step import Step
from tests.serving.engine.engines import TOKENS, ask, assert_equal, engine, question
from tests.serving.engine.policies import FREE, LEAVING, POLICIES, STAYING
from tests.support.messages import refuses
from tests.support.served import Prompt, greedy

expected = partial(greedy, tokens=TOKENS)


@pytest.fixture(scope="module")
def prompts():
    return [question(item, *item.images) for item in embedded("held-out", 60)]


def saved(policy, folder):
    policy.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("name", POLICIES)
def test_answers_are_those_of_transformers(name, prompts, tmp_path):
    """Also of prompts that find their first blocks in the cache, where a policy allows it."""
    wanted = expected(POLICIES[name], prompts)
    with engine(saved(POLICIES[name], tmp_path), enable_prefix_caching=True) as llm:
        found, again = ask(llm, prompts), ask(llm, prompts)
    assert_equal(found, wanted)
    assert_equal(again, wanted)
    assert any(each.num_cached_tokens for each in again) == (name in STAYING)


@pytest.mark.parametrize("name", LEAVING)
def test_text_before_an_image_is_read_from_the_cache(name, tmp_path):
    """Two blocks of a system prompt that all requests begin with, and nothing of the images."""
    items = embedded("held-out", 12)
    prompts = [
        Prompt(f"<bos> {'red ' * 70}user <image> {item.question} assistant", list(item.images))
        for item in items
    ]
    with engine(saved(LEAVING[name], tmp_path), enable_prefix_caching=True) as llm:
        first = ask(llm, prompts[:1])
        others = ask(llm, prompts)
    assert_equal([*first, *others], expected(LEAVING[name], [prompts[0], *prompts]))
    assert {each.num_cached_tokens for each in others} == {64}


def test_a_second_image_leaves_the_first_one_in_the_cache_unread(tmp_path):
    """The blocks of the image alone are shared; beside another image it is ranked anew."""
    item, other = embedded("held-out", 2)
    text = f"<bos> {'red ' * 20}user <image> {{}}{item.question} assistant"
    alone = Prompt(text.format(""), list(item.images))
    both = Prompt(text.format("<image> "), [*item.images, *other.images])
    policy = POLICIES["dop, keys stay"]
    with engine(saved(policy, tmp_path), enable_prefix_caching=True, block_size=32) as llm:
        found = [ask(llm, [each])[0] for each in (alone, alone, both, both)]
    assert_equal(found, expected(policy, [alone, alone, both, both]))
    assert found[1].num_cached_tokens == 64
    assert {each.num_cached_tokens for each in found[2:]} == {0}


@pytest.mark.parametrize(
    "ranker", ["cdpruner", "cls", "mmtok", "otprune", "visionzip", "vispruner"]
)
def test_rankers_that_read_the_tower_or_the_text(ranker, prompts, tmp_path):
    policy = builders.dop(12, 4, 8, "1/4", RankerSpec(ranker), kv="leaves")
    with engine(saved(policy, tmp_path)) as llm:
        assert_equal(ask(llm, prompts[:12]), expected(policy, prompts[:12]))


def test_one_batch_holds_requests_with_one_image_with_two_and_with_none(tmp_path):
    items = embedded("held-out", 24)
    images = [item.images[0] for item in items]
    pictures = [[[], [images[i]], [images[i], images[i - 1]]][i % 3] for i in range(len(items))]
    prompts = [question(item, *own) for item, own in zip(items, pictures, strict=True)]
    with engine(saved(FREE, tmp_path)) as llm:
        assert_equal(ask(llm, prompts), expected(FREE, prompts))


@pytest.mark.parametrize("name", ["tokens", "dop, keys stay", "depth"])
def test_an_image_as_one_of_two_and_alone_in_turn(name, tmp_path):
    """It is encoded once. Where it is alone, it is ranked alone, and its keys are others."""
    item, other = embedded("held-out", 2)
    alone, both = question(item, *item.images), question(item, *item.images, *other.images)
    prompts = [both, alone] * 2
    with engine(saved(POLICIES[name], tmp_path), enable_prefix_caching=True) as llm:
        found = [ask(llm, [each])[0] for each in prompts]
    assert_equal(found, expected(POLICIES[name], prompts))


def test_without_the_key_answers_are_those_of_the_stock_class(prompts, monkeypatch):
    name = LlavaForConditionalGeneration.__name__
    with engine(enforce_eager=True) as llm:
        (registered,) = llm.apply_model(type)
        found = ask(llm, prompts[:20])
    with monkeypatch.context() as patched:
        patched.setitem(ModelRegistry.models, name, ModelRegistry.models[name])
        patched.delitem(MODELS_CONFIG_MAP, name)
        patched.setattr(utils, "_MODEL_ARCH_BY_HASH", {})  # vLLM's memory of classes
        ModelRegistry.register_model(name, LlavaForConditionalGeneration)
        with engine(enforce_eager=True) as llm:
            assert llm.apply_model(type) == [LlavaForConditionalGeneration]
            stock = ask(llm, prompts[:20])
    assert registered is not LlavaForConditionalGeneration
    assert issubclass(registered, LlavaForConditionalGeneration)
    assert [each.outputs[0] for each in found] == [each.outputs[0] for each in stock]
    assert_equal(found, expected(POLICIES["identity"], prompts[:20]))


def reversed_slots(stock):
    return lambda *args: stock(*args).flip(0)


def one_key_short(stock):
    def runs(*args):
        found = stock(*args)
        return found._replace(lengths=(found.lengths - 1).maximum(found.starts.diff()))

    return runs


def test_answers_that_are_no_numbers_do_not_pass_the_check(monkeypatch, tmp_path):
    run = self_check._run
    monkeypatch.setattr(self_check, "_run", lambda *args: [torch.nan * each for each in run(*args)])
    with refuses(ModelError, "differ from masked attention"), engine(saved(FREE, tmp_path)):
        pass


def test_a_server_checks_as_many_prompts_as_it_is_told(monkeypatch, tmp_path):
    lengths, reference = [], self_check._reference

    def seen(decoder, sample):
        lengths.append(len(sample.hidden))
        return reference(decoder, sample)

    monkeypatch.setattr(self_check, "_reference", seen)
    with engine(saved(FREE, tmp_path), hf_overrides={"opsearch_selfcheck": 8}):
        pass
    assert len(lengths) == 16
    assert len(set(lengths)) > 10
    assert 150 < max(lengths) < 256


@pytest.mark.parametrize(("method", "fault"), [("slots", reversed_slots), ("runs", one_key_short)])
def test_a_server_whose_answers_would_be_wrong_does_not_start(method, fault, monkeypatch, tmp_path):
    monkeypatch.setattr(Step, method, fault(getattr(Step, method)))
    with refuses(ModelError, "differ from masked attention"), engine(saved(FREE, tmp_path)):
        pass
