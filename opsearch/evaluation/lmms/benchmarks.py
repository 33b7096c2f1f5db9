"""The thirteen benchmarks: task in lmms-eval, official figure, and score per sample.

The score per sample lies in [0, 1] and compares subsets. Official figures are computed on whole
splits only, as some are no means: MME sums accuracies of question pairs, MMBench counts a question
when all its rotations are right, OCRBench always divides by 1000.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from typing import Any

from opsearch.errors import DataError, echo

Metrics = Mapping[str, Any]
"""Result of a task's process_results for one document."""


@dataclass(frozen=True)
class Benchmark:
    """A task and its scoring.

    Attributes:
        task: Name in lmms-eval.
        official: The metrics whose sum is the official figure.
        sample: Score of one document, None when the document does not count.
        aggregate: From the values of a metric to its figure; None for the task's own.
    """

    task: str
    official: tuple[str, ...]
    sample: Callable[[Metrics], float | None]
    aggregate: Callable[[Sequence[Any]], float] | None = None

    def figure(self, task: Any, metrics: Sequence[Metrics]) -> float:
        """Return the official figure of a whole split."""
        return sum(self._aggregated(task, name, metrics) for name in self.official)

    def _aggregated(self, task: Any, name: str, metrics: Sequence[Metrics]) -> float:
        aggregate = self.aggregate or task.aggregation()[name]
        values = [each[name] for each in metrics if name in each]
        return float(aggregate(values)) if values else 0.0


def _value(name: str) -> Callable[[Metrics], float | None]:
    """Return a metric that is a number for each document."""
    return lambda metrics: float(metrics[name])


def _score(*names: str) -> Callable[[Metrics], float | None]:
    """Return a metric that is a dict with a score, under one of several names."""
    return lambda metrics: next(float(metrics[name]["score"]) for name in names if name in metrics)


def _seed_image(metrics: Metrics) -> float | None:
    """Compare letters as SEED-Bench does; None for documents of videos, which lack the metric."""
    if "seed_image" not in metrics:
        return None
    metric = metrics["seed_image"]
    return float(metric["pred"].lower().strip() == metric["answer"].lower().strip())


def _mmbench_sample(metrics: Metrics) -> float:
    """Score one row of MMBench by itself, with the letter extracted by rules."""
    import pandas as pd
    from lmms_eval.tasks.mmbench.mmbench_evals import MMBench_Evaluator

    row = metrics["gpt_eval_score"]
    answers = {row["index"]: row["answer"]}
    rows = pd.DataFrame([row])
    return float(MMBench_Evaluator().eval_sub_data(rows, answers, static_only=True))


def _mmbench(rows: Sequence[Any]) -> float:
    """Evaluate statically, in %; the task of the Chinese split would call an online judge."""
    from lmms_eval.tasks.mmbench.mmbench_evals import MMBench_Evaluator

    with redirect_stdout(io.StringIO()):
        overall, _, _ = MMBench_Evaluator().eval_result(rows, eval_method="static")
    return 100 * float(overall)


def _ocrbench(values: Sequence[Any]) -> float:
    """Return the share of right answers; the task's own sums over all evaluations of a process."""
    return sum(float(value["score"]) for value in values) / len(values)


_MME = ("mme_perception_score", "mme_cognition_score")
_EXACT = (("exact_match",), _value("exact_match"))

BENCHMARKS: dict[str, Benchmark] = {
    "textvqa": Benchmark("textvqa_val", *_EXACT),
    "vqav2": Benchmark("vqav2_val", *_EXACT),
    "gqa": Benchmark("gqa", *_EXACT),
    "vizwiz": Benchmark("vizwiz_vqa_val", *_EXACT),
    "scienceqa": Benchmark("scienceqa_img", *_EXACT),
    "seedbench": Benchmark("seedbench", ("seed_image",), _seed_image),
    "mme": Benchmark("mme", _MME, _score(*_MME)),
    "pope": Benchmark("pope", ("pope_accuracy",), _score("pope_accuracy")),
    "mmbench": Benchmark("mmbench_en_dev_static", ("gpt_eval_score",), _mmbench_sample, _mmbench),
    "mmbench_cn": Benchmark("mmbench_cn_dev", ("gpt_eval_score",), _mmbench_sample, _mmbench),
    "ai2d": Benchmark("ai2d", *_EXACT),
    "chartqa": Benchmark("chartqa", ("relaxed_overall",), _value("relaxed_overall")),
    "ocrbench": Benchmark(
        "ocrbench", ("ocrbench_accuracy",), _score("ocrbench_accuracy"), _ocrbench
    ),
}


def task_name(name: str) -> str:
    """Return lmms-eval's name of a benchmark, with its folder kept; other names unchanged."""
    folder, slash, last = name.rpartition("/")
    return folder + slash + (BENCHMARKS[last].task if last in BENCHMARKS else last)


def benchmark_of(task: Any) -> Benchmark:
    """Return the scoring of a task.

    Raises:
        DataError: None of its metrics is a mean over documents.
    """
    name = task.config.task
    for benchmark in BENCHMARKS.values():
        if benchmark.task == name:
            return benchmark
    metrics = task.config.metric_list or []
    for metric in metrics:
        if metric.get("aggregation") == "mean":
            return Benchmark(name, (metric["metric"],), _share(name, metric["metric"]))
    named = ", ".join(str(metric["metric"]) for metric in metrics) or "none"
    raise DataError(
        f"task {name} has no metric that is a mean over documents (its metrics: {named}), so "
        "original and policy cannot be compared sample by sample; choose another task"
    )


def _share(task: str, metric: str) -> Callable[[Metrics], float | None]:
    def sample(metrics: Metrics) -> float | None:
        value = metrics[metric]
        if not isinstance(value, (int, float)) or not 0 <= value <= 1:
            raise DataError(
                f"task {task}: {metric} of a document is {echo(value)}, not a number from 0 to 1, "
                "so it cannot be averaged; choose another task"
            )
        return float(value)

    return sample
