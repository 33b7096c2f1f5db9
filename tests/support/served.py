"""Prompts and engines for tests of served policies, and the answers that they must give."""

import random
from dataclasses import dataclass, field
from functools import cache

import torch
from transformers import AutoModelForImageTextToText, AutoProcessor

from opsearch.data.demo import MODEL_DIR
from opsearch.data.embedded import embedded

EMBEDDED = MODEL_DIR


@dataclass
class Prompt:
    """A prompt with images."""

    text: str
    images: list = field(default_factory=list)

    def for_vllm(self):
        data = {"multi_modal_data": {"image": self.images}} if self.images else {}
        return {"prompt": self.text, **data}


def embedded_prompts(number, draw: random.Random):
    """Questions about one picture, about two and about none."""
    items = embedded("held-out", number)
    prompts = []
    for item in items:
        other = draw.choice(items)
        marks, images = draw.choice(
            [
                ("<image>", [item.images[0]]),
                ("<image>", [item.images[0]]),
                ("<image> and <image>", [item.images[0], other.images[0]]),
                ("", []),
            ]
        )
        prompts.append(Prompt(f"<bos> user {marks} {item.question} assistant", images))
    return prompts


@cache
def loaded(folder):
    """The model and its processor in transformers, in float32."""
    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32)
    return model, AutoProcessor.from_pretrained(folder)


def processed(prompt, folder=EMBEDDED):
    """What the processor of transformers makes of a prompt."""
    return loaded(folder)[1](
        text=prompt.text, images=prompt.images or None, return_tensors="pt",
        add_special_tokens=False,
    )  # fmt: skip


def greedy(policy, prompts, tokens, folder=EMBEDDED):
    """Token ids and log-probabilities of greedy answers, one prompt at a time."""
    model = loaded(folder)[0]
    found = []
    with policy.apply(model):
        for prompt in prompts:
            inputs = processed(prompt, folder)
            output = model.generate(
                **inputs, max_new_tokens=tokens, min_new_tokens=tokens, do_sample=False,
                output_scores=True, return_dict_in_generate=True,
            )  # fmt: skip
            ids = output.sequences[0, inputs["input_ids"].shape[1] :].tolist()
            found.append(
                [
                    (i, s[0].log_softmax(-1)[i].item())
                    for i, s in zip(ids, output.scores, strict=True)
                ]
            )
    return found


def worst_gap(output, expected):
    """Largest difference of log-probabilities; infinite if a token differs."""
    worst = 0.0
    for token, found, (right, logprob) in zip(
        output.token_ids, output.logprobs, expected, strict=True
    ):
        if token != right:
            return float("inf")
        worst = max(worst, abs(found[token].logprob - logprob))
    return worst


def engine_of(folder, policy, **settings):
    """vLLM's engine in this process, with a policy folder or None."""
    from vllm import EngineArgs, LLMEngine

    arguments = {
        "model": str(folder),
        "dtype": "float32",
        "max_model_len": 256,
        "enforce_eager": True,
        "limit_mm_per_prompt": {"image": 2},
        "logprobs_mode": "processed_logprobs",
        "hf_overrides": {"opsearch_policy": str(policy)} if policy else {},
        **settings,
    }
    return LLMEngine.from_engine_args(EngineArgs(**arguments))
