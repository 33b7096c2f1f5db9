"""Engines of vLLM in this process, one at a time, and what they answer."""

import gc
from contextlib import contextmanager

from vllm import LLM, SamplingParams
from vllm.distributed import cleanup_dist_env_and_memory

from tests.support.served import EMBEDDED, Prompt, worst_gap

TOKENS = 8  # of an answer
SETTINGS = {
    "dtype": "float32",
    "max_model_len": 256,
    "max_num_seqs": 16,
    "max_num_batched_tokens": 72,  # so that chunks end inside of an image
    "block_size": 32,
    "logprobs_mode": "processed_logprobs",
    "seed": 0,
}


@contextmanager
def engine(folder=None, model=EMBEDDED, hf_overrides=None, **settings):
    """An engine that serves a model under the policy of a folder, or without one."""
    overrides = {} if folder is None else {"opsearch_policy": str(folder), **(hf_overrides or {})}
    llm = LLM(str(model), hf_overrides=overrides, **{**SETTINGS, **settings})
    try:
        yield llm
    finally:
        llm.llm_engine.engine_core.shutdown()
        del llm
        gc.collect()
        cleanup_dist_env_and_memory()


def sampling(temperature=0, **settings):
    """Settings of an answer of TOKENS tokens."""
    length = {"max_tokens": TOKENS, "min_tokens": TOKENS}
    return SamplingParams(temperature=temperature, logprobs=1, **length, **settings)


def ask(llm, prompts, params=None):
    """The engine's outputs for prompts, greedy without other settings."""
    given = [each.for_vllm() if isinstance(each, Prompt) else each for each in prompts]
    return llm.generate(given, params or sampling(), use_tqdm=False)


def question(item, *images):
    """An embedded question about pictures."""
    return Prompt(f"<bos> user {'<image> ' * len(images)}{item.question} assistant", list(images))


def assert_equal(found, expected):
    """Tokens of outputs are equal, and log-probabilities up to rounding in float32."""
    assert len(found) == len(expected)
    gaps = [worst_gap(one.outputs[0], other) for one, other in zip(found, expected, strict=True)]
    assert max(gaps) < 2e-4
