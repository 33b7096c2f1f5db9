"""Requests of a task through a stock wrapper, and what the task makes of the answers."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any

from opsearch.lmms.benchmarks import Metrics
from opsearch.lmms.log import AnswerLog, policy_key
from opsearch.policy import Policy


def build_requests(task: Any, limit: int | None) -> list[Any]:
    """lmms-eval's requests for the first `limit` documents of a task, or for all."""
    with _without_bars("lmms_eval.api.task"):
        task.build_all_requests(limit=limit)
    return list(task.instances)


def generate(
    wrapper: Any,
    task: Any,
    requests: Sequence[Any],
    shown: Sequence[str],
    policy: Policy | None,
    log: AnswerLog,
    model: str,
    tick: Callable[[int, int], None],
) -> list[str]:
    """One answer per request, batch size 1; what `log` holds is not generated again.

    shown: digests of what the model is shown. model: what the answers depend on of the model.
    """
    wrapper.task_dict[task.config.task] = task.dataset
    texts = []
    with ExitStack() as stack:
        stack.enter_context(policy.apply(wrapper.model) if policy else nullcontext())
        stack.enter_context(_without_bars(type(wrapper).__module__))
        failures = stack.enter_context(kept_failures(wrapper.model))
        for done, (request, digest) in enumerate(zip(requests, shown, strict=True), 1):
            key = _key(model, policy, task.config.task, digest, task.config.generation_kwargs)
            text = log.get(key)
            if text is None:
                text = _text(wrapper.generate_until([request])[0])
                if failures:
                    raise failures[0]
                kind = policy_key(policy)[:12]
                log.add(key, text, task=task.config.task, document=request.doc_id, policy=kind)
            texts.append(text)
            tick(done, len(requests))
    return texts


def results(task: Any, requests: Sequence[Any], texts: Sequence[str]) -> list[Metrics]:
    """What the task's first filter and its process_results make of the answers, by document."""
    docs = task.eval_docs_no_media.select([request.doc_id for request in requests])
    for request, text in zip(requests, texts, strict=True):
        request.resps = [text]
    chain = task._filters[0]
    chain.apply(requests, docs)
    return [
        task.process_results(doc, [request.filtered_resps[chain.name]])
        for doc, request in zip(docs, requests, strict=True)
    ]


def _key(model: str, policy: Policy | None, task: str, digest: str, settings: Any) -> str:
    parts = [model, policy_key(policy), task, digest, settings]
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


def _text(output: Any) -> str:
    return output if isinstance(output, str) else str(output.text)


@contextmanager
def kept_failures(model: Any) -> Iterator[list[Exception]]:
    """Errors of generate(): some wrappers log them and go on with an empty answer."""
    failures: list[Exception] = []
    original = model.generate

    def generate(*args: Any, **kwargs: Any) -> Any:
        try:
            return original(*args, **kwargs)
        except Exception as error:
            failures.append(error)
            raise

    model.generate = generate
    try:
        yield failures
    finally:
        del model.generate


@contextmanager
def _without_bars(module: str) -> Iterator[None]:
    """lmms-eval draws a bar for each call; ours are calls of one request."""
    loaded: Any = sys.modules[module]
    drawn = loaded.tqdm
    loaded.tqdm = lambda *args, **kwargs: drawn(*args, **{**kwargs, "disable": True})
    try:
        yield
    finally:
        loaded.tqdm = drawn
