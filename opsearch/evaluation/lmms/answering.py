"""Requests and results of a task, and workarounds for the stock wrappers."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from opsearch.evaluation.lmms.benchmarks import Metrics


def build_requests(task: Any, limit: int | None) -> list[Any]:
    """Return lmms-eval's requests for the first `limit` documents of a task, or for all."""
    with without_bars("lmms_eval.api.task"):
        task.build_all_requests(limit=limit)
    return list(task.instances)


def results(task: Any, requests: Sequence[Any], texts: Sequence[str]) -> list[Metrics]:
    """Return the metrics of each document: the task's first filter, then process_results."""
    docs = task.eval_docs_no_media.select([request.doc_id for request in requests])
    for request, text in zip(requests, texts, strict=True):
        request.resps = [text]
    chain = task._filters[0]
    chain.apply(requests, docs)
    return [
        task.process_results(doc, [request.filtered_resps[chain.name]])
        for doc, request in zip(docs, requests, strict=True)
    ]


@contextmanager
def kept_failures(model: Any) -> Iterator[list[Exception]]:
    """Collect errors of generate(), which some wrappers log and replace by an empty answer."""
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
def without_bars(module: str) -> Iterator[None]:
    """Hide lmms-eval's progress bars, which it would draw for every single request."""
    loaded: Any = sys.modules[module]
    drawn = loaded.tqdm
    loaded.tqdm = lambda *args, **kwargs: drawn(*args, **{**kwargs, "disable": True})
    try:
        yield
    finally:
        loaded.tqdm = drawn
