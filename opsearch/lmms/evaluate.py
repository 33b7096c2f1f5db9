"""`opsearch eval --tasks`: benchmarks by lmms-eval, the original beside a policy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

import opsearch
from opsearch.analysis.bootstrap import interval, resamples
from opsearch.errors import DataError, PolicyError
from opsearch.evaluate import calibrated_on
from opsearch.lmms.answering import build_requests, generate, results
from opsearch.lmms.benchmarks import Benchmark, Metrics, benchmark_of, task_name
from opsearch.lmms.log import FILE_NAME, AnswerLog
from opsearch.lmms.wrappers import load_wrapper, wrapper_name
from opsearch.policy import Policy
from opsearch.progress import Stages
from opsearch.runtime.checks import check_fits
from opsearch.runtime.load import fingerprint, load_config
from opsearch.tasks.lmms import lmms_item, load_task

Scores = NDArray[np.float64]


@dataclass(frozen=True)
class TaskScores:
    """Original and policy on the same documents of one task.

    name: as it was asked for, without its folder. original, policy: scores of the documents that
    count, float64[S]. dropped: documents left out because the policy was searched on them.
    changed: answers that differ. official: the two official figures, None when not the whole split
    was answered.
    """

    name: str
    original: Scores
    policy: Scores
    dropped: int
    changed: int
    official: tuple[float, float] | None

    @property
    def ratio(self) -> float:
        """Mean score relative to the original's, nan where the original has none."""
        return _ratio(float(self.policy.mean()), float(self.original.mean()))

    @property
    def official_ratio(self) -> float:
        """The policy's official figure relative to the original's, nan where there is none."""
        return _ratio(self.official[1], self.official[0]) if self.official else float("nan")

    def resampled(self, seed: int) -> Scores:
        """Ratios on documents drawn with replacement, the same for both, float64[B]."""
        weights = resamples(len(self.original), seed)
        original, policy = self.original @ weights, self.policy @ weights
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(original > 0, policy / original, np.nan)


@dataclass(frozen=True)
class Evaluation:
    """All tasks of one evaluation, of the model and with the limit that it was asked for."""

    model: str
    limit: int | None
    tasks: tuple[TaskScores, ...]

    @property
    def relative(self) -> float:
        """Rel. Avg. of scores per sample, over tasks that the original does not fail in."""
        return _mean([task.ratio for task in self.tasks])

    @property
    def official_relative(self) -> float:
        """Rel. Avg. of official figures; nan unless every task has one."""
        if any(task.official is None for task in self.tasks):
            return float("nan")
        return _mean([task.official_ratio for task in self.tasks])

    def interval(self) -> tuple[float, float]:
        """The middle 95 % of Rel. Avg. under paired resampling of every task's documents."""
        drawn = [
            task.resampled(seed) for seed, task in enumerate(self.tasks) if not np.isnan(task.ratio)
        ]
        return ends(np.mean(drawn, axis=0)) if drawn else (float("nan"), float("nan"))


def evaluate_tasks(
    path: Path,
    names: Sequence[str],
    model: str,
    limit: int | None,
    dtype: str,
    device: str,
    console: Console,
) -> Evaluation:
    """Answer the tasks' documents with the original and with the policy of a run folder or file.

    names: benchmarks, tasks of lmms-eval, or FOLDER/TASK. limit: only so many first documents of
    each task. Raises UnknownNameError, DataError, PolicyError, ModelError, OpsearchError.
    """
    policy = Policy.from_pretrained(path)
    check_fits(policy, load_config(model))
    _check_model(policy, model)
    if limit is not None and limit < 1:
        raise DataError(f"{limit} documents were asked for; give a --limit of at least 1")
    used = calibrated_on(path)
    stages = Stages(console, 2 + 2 * len(names))
    with stages.stage("loading the tasks"):
        tasks = [load_task(task_name(name), wrapper_name(model)) for name in names]
        benchmarks = [benchmark_of(task) for task in tasks]
    with stages.stage("loading the model"):
        wrapper = load_wrapper(model, dtype, device)
    log = AnswerLog((path if path.is_dir() else path.parent) / FILE_NAME)
    passes = _Passes(wrapper, policy, log, stages, limit, used)
    short = [name.rpartition("/")[2] for name in names]
    scores = [passes.scores(*each) for each in zip(short, tasks, benchmarks, strict=True)]
    return Evaluation(model, limit, tuple(scores))


class _Passes:
    """One model, one policy and one log; the two passes over each task."""

    def __init__(
        self,
        wrapper: Any,
        policy: Policy,
        log: AnswerLog,
        stages: Stages,
        limit: int | None,
        used: set[str],
    ) -> None:
        self.wrapper, self.policy, self.log, self.stages = wrapper, policy, log, stages
        self.limit, self.used = limit, used
        versions = [opsearch.__version__, version("lmms-eval"), version("transformers")]
        kind = [type(wrapper).__module__, str(wrapper.model.dtype)]
        self.model = " ".join([fingerprint(wrapper.model), *kind, *versions])

    def scores(self, name: str, task: Any, benchmark: Benchmark) -> TaskScores:
        """Both passes over one task, and what its metric says."""
        asked = build_requests(task, self.limit)
        digests = [lmms_item(task, request.doc_id).digest() for request in asked]
        kept = [i for i, digest in enumerate(digests) if digest not in self.used]
        if not kept:
            raise DataError(
                f"the policy was searched on all {len(asked)} documents of task {name} that are "
                "asked for; give a larger --limit or another task"
            )
        requests, shown = [asked[i] for i in kept], [digests[i] for i in kept]
        texts, metrics = [], []
        for title, policy in ((f"{name}, original", None), (f"{name}, policy", self.policy)):
            with self.stages.stage(title) as tick:
                texts.append(
                    generate(
                        self.wrapper, task, requests, shown, policy, self.log, self.model, tick
                    )
                )
                metrics.append(results(task, requests, texts[-1]))
        whole = len(requests) == len(task.eval_docs)
        figures = [benchmark.figure(task, each) for each in metrics] if whole else None
        return TaskScores(
            name,
            *_counting(name, benchmark, metrics),
            dropped=len(asked) - len(kept),
            changed=sum(before != after for before, after in zip(*texts, strict=True)),
            official=(figures[0], figures[1]) if figures else None,
        )


def _counting(
    name: str, benchmark: Benchmark, metrics: Sequence[Sequence[Metrics]]
) -> tuple[Scores, Scores]:
    """Scores of the documents that count, original and policy."""
    pairs = [
        (before, after)
        for before, after in zip(*(map(benchmark.sample, each) for each in metrics), strict=True)
        if before is not None and after is not None
    ]
    if not pairs:
        raise DataError(
            f"no document of task {name} that was asked for counts in its score; give a larger "
            "--limit"
        )
    original, policy = np.array(pairs, np.float64).T
    return original, policy


def ends(values: Scores) -> tuple[float, float]:
    """The middle 95 % of resampled values; draws in which the original scores 0 have none."""
    known = values[~np.isnan(values)]
    if not len(known):
        return float("nan"), float("nan")
    low, high = interval(known)
    return float(low), float(high)


def _ratio(policy: float, original: float) -> float:
    return policy / original if original > 0 else float("nan")


def _mean(values: Sequence[float]) -> float:
    known = [value for value in values if not np.isnan(value)]
    return float(np.mean(known)) if known else float("nan")


def _check_model(policy: Policy, model: str) -> None:
    """Raise PolicyError for a policy that was searched on another model, by its name."""
    searched = policy.provenance.get("model")
    if isinstance(searched, str) and Path(searched).name != Path(model).name:
        raise PolicyError(
            f"the policy was searched on {searched!r}, the original to compare with is {model!r}; "
            f"give --model {searched}, or take `model` out of the policy's provenance"
        )
