"""A model in its stock wrapper and its tasks, in this process or in a Ray worker.

This module knows neither the log nor Ray. An answer depends on the job alone, so that documents of
a lost worker can be answered by any other.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import torch

from opsearch.data.lmms import load_task
from opsearch.evaluation.lmms.answering import build_requests, kept_failures, without_bars
from opsearch.evaluation.lmms.benchmarks import task_name
from opsearch.evaluation.lmms.wrappers import load_wrapper, wrapped_processor, wrapper_name
from opsearch.models.digests import settings_digest
from opsearch.models.spec import ModelSpec
from opsearch.policy.policy import Policy
from opsearch.runs.session import model_facts
from opsearch.version import __version__


@dataclass(frozen=True)
class AnswererModel:
    """The model to answer with.

    Attributes:
        model: The model, and how its weights are loaded.
        limit: Documents per task, None for all.
    """

    model: ModelSpec
    limit: int | None


@dataclass(frozen=True, eq=False)
class Shard:
    """Documents of a task to answer.

    Attributes:
        task: Name of the task.
        documents: Their numbers.
        policy: The policy to answer under, None for the original.
    """

    task: str
    documents: tuple[int, ...]
    policy: Policy | None

    @property
    def affinity(self) -> str:
        """Name of the task, which a worker loads once."""
        return self.task

    @property
    def content(self) -> str:
        """Description of the job."""
        return f"{len(self.documents)} documents of {self.task}"


class Answerer:
    """Loads tasks on first use and the model by `load`, and answers documents."""

    def __init__(self, source: AnswererModel) -> None:
        self.source = source
        self._wrapper: Any = None
        self._tasks: dict[str, tuple[Any, list[Any]]] = {}

    def task(self, name: str) -> tuple[Any, list[Any]]:
        """Return a task and its requests up to the limit, by document.

        Args:
            name: A benchmark, a task of lmms-eval, or FOLDER/TASK.
        """
        if name not in self._tasks:
            task = load_task(task_name(name), wrapper_name(self.source.model.name))
            self._tasks[name] = task, build_requests(task, self.source.limit)
        return self._tasks[name]

    def load(self) -> str:
        """Load the model and return a digest of all that its answers depend on."""
        spec = self.source.model
        self._wrapper = load_wrapper(spec)
        facts = model_facts(self._wrapper.model, wrapped_processor(self._wrapper), spec)
        facts["wrapper"] = type(self._wrapper).__module__
        facts["versions"] = [__version__, version("lmms-eval")]
        return settings_digest(facts)

    def answers(self, shard: Shard) -> Iterator[str]:
        """Yield one answer per document at batch size 1; errors of `generate` are raised."""
        task, requests = self.task(shard.task)
        wrapper, policy = self._wrapper, shard.policy
        wrapper.task_dict[task.config.task] = task.dataset
        with ExitStack() as stack:
            stack.enter_context(policy.apply(wrapper.model) if policy else nullcontext())
            stack.enter_context(without_bars(type(wrapper).__module__))
            failures = stack.enter_context(kept_failures(wrapper.model))
            for document in shard.documents:
                output = wrapper.generate_until([requests[document]])[0]
                if failures:
                    raise failures[0]
                yield output if isinstance(output, str) else str(output.text)


class RemoteAnswerer:
    """An Answerer as a Ray worker."""

    def load(self, source: AnswererModel) -> str:
        """Load the model and return its digest, to compare with other workers."""
        self._answerer = Answerer(source)
        return self._answerer.load()

    def answer(self, shard: Shard) -> list[str]:
        """Return all answers of a shard; in one thread where the model is on a CPU."""
        torch.set_num_threads(1)  # per thread: this is not the thread that loaded the model
        return list(self._answerer.answers(shard))
