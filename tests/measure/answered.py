"""KL divergence of an applied policy along the original's own answer."""

import torch
from transformers import LogitsProcessorList


def alone(model, policy, sample, positions=1):
    """Return the KL of a policy on a sample, mean over the original's answer, which is forced."""
    length = sample.inputs["input_ids"].shape[1]
    answer = model.generate(**sample.inputs, max_new_tokens=positions, do_sample=False)[0, length:]
    p = _log_probabilities(model, sample, answer)
    with policy.apply(model):
        q = _log_probabilities(model, sample, answer)
    return float((p.exp() * (p - q)).sum(-1).mean())


def _log_probabilities(model, sample, answer):
    """Return log-probabilities at each token of the answer; decoder rankers see only the prompt."""
    length = sample.inputs["input_ids"].shape[1]

    def forced(ids, scores):
        only = torch.full_like(scores, -torch.inf)
        only[:, answer[ids.shape[1] - length]] = 0.0
        return only

    logits = model.generate(
        **sample.inputs,
        max_new_tokens=len(answer),
        do_sample=False,
        logits_processor=LogitsProcessorList([forced]),
        output_logits=True,
        return_dict_in_generate=True,
    ).logits
    return torch.log_softmax(torch.cat(logits).double(), -1)
