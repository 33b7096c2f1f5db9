"""Requests to one server: several answers to one, and prompts that cannot be served."""

import pytest
import torch
from vllm import SamplingParams
from vllm.multimodal.inputs import PlaceholderRange

from opsearch import RankerSpec, builders
from opsearch.data.demo.vocabulary import TOKENS as WORDS
from opsearch.data.embedded import embedded
from opsearch.errors import PolicyError
from opsearch.serving.processor import shortened
from opsearch.serving.served_policy import ServedPolicy
from tests.serving.engine.engines import TOKENS, ask, engine, question, sampling
from tests.serving.engine.policies import FREE
from tests.support.messages import refuses
from tests.support.served import processed

BOS, IMAGE, WORD = WORDS.index("<bos>"), WORDS.index("<image>"), WORDS.index("red")


@pytest.fixture(scope="module")
def llm(tmp_path_factory):
    folder = tmp_path_factory.mktemp("policy")
    FREE.save_pretrained(folder)
    # On a CPU vLLM itself fails at a seeded request whose prompt is cut into chunks.
    with engine(folder, max_num_batched_tokens=2048) as made:
        yield made


def logprobs(output):
    pairs = zip(output.token_ids, output.logprobs, strict=True)
    return torch.tensor([of[token].logprob for token, of in pairs])


def test_parallel_samples_are_those_of_separate_requests(llm):
    """Sample number i has the seed of the request plus i."""
    prompts = [question(item, *item.images) for item in embedded("held-out", 4)]
    together = ask(llm, prompts, sampling(1, n=3, seed=7))
    for i in range(3):
        alone = ask(llm, prompts, sampling(1, seed=7 + i))
        for one, three in zip(alone, together, strict=True):
            wanted, found = one.outputs[0], three.outputs[i]
            assert found.token_ids == wanted.token_ids
            torch.testing.assert_close(logprobs(found), logprobs(wanted), atol=2e-4, rtol=0)
    samples = {tuple(each.token_ids) for request in together for each in request.outputs}
    assert len(samples) == 12


def ask_tokens(llm, *tokens):
    (picture,) = embedded("held-out", 1)[0].images
    prompt = {"prompt_token_ids": list(tokens), "multi_modal_data": {"image": [picture]}}
    return ask(llm, [prompt])[0].outputs[0].token_ids


@pytest.mark.parametrize(
    ("tokens", "parts"),
    [
        ((BOS, WORD, IMAGE), ["ends with an image", "after the image"]),
        ((IMAGE, WORD, WORD), ["begins with an image", "a token before the image"]),
        ((BOS, IMAGE, *[WORD] * 155), [256, "smaller image"]),
    ],
    ids=["image at the end", "image at the beginning", "too long before it is shortened"],
)
def test_prompts_that_cannot_be_served_are_refused_and_the_next_is_served(llm, tokens, parts):
    before = ask_tokens(llm, BOS, IMAGE, WORD)
    with refuses(PolicyError, *parts):
        ask_tokens(llm, *tokens)
    assert ask_tokens(llm, BOS, IMAGE, WORD) == before


def test_the_longest_prompt_is_served(llm):
    assert len(ask_tokens(llm, BOS, IMAGE, *[WORD] * 146)) == TOKENS


def test_an_answer_ends_at_the_last_position_of_the_model(tmp_path):
    """Dropped tokens have positions, too: with what is left alone, rows would lie beyond them."""
    builders.tokens(12, "1/4", RankerSpec("uniform")).save_pretrained(tmp_path)
    item = embedded("held-out", 1)[0]
    prompt = question(item, *item.images)
    whole = len(processed(prompt)["input_ids"][0])
    with engine(tmp_path) as llm:
        (answer,) = ask(llm, [prompt], SamplingParams(max_tokens=256, ignore_eos=True))
    assert len(answer.prompt_token_ids) < whole
    assert len(answer.outputs[0].token_ids) == 256 - whole
    assert answer.outputs[0].finish_reason == "length"


def test_videos_are_refused():
    """The embedded model takes none; models that do count them among the placeholders."""
    processed = {
        "mm_placeholders": {"image": [], "video": [PlaceholderRange(1, 4)]},
        "mm_hashes": {"video": ["abc"]},
    }
    with refuses(PolicyError, "video", "images only"):
        shortened(processed, ServedPolicy(builders.identity(12)), None)
