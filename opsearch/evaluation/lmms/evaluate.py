"""`opsearch eval --tasks`: benchmarks by lmms-eval, original against policy."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from rich.console import Console

from opsearch.data.groups import Seen, item_links, unseen_rows
from opsearch.data.lmms import lmms_item
from opsearch.errors import PATH, DataError, PolicyError, echo
from opsearch.evaluation.evaluate import calibrated_on
from opsearch.evaluation.lmms.answerer import Answerer, AnswererModel, RemoteAnswerer, Shard
from opsearch.evaluation.lmms.answering import results
from opsearch.evaluation.lmms.benchmarks import Benchmark, Metrics, benchmark_of
from opsearch.evaluation.lmms.log import FILE_NAME, AnswerLog, answer_key, policy_key
from opsearch.evaluation.lmms.scores import Evaluation, ScoreArray, TaskScores
from opsearch.measure.workers.cluster import Workers, on_ray
from opsearch.measure.workers.queue import Queue
from opsearch.models.pruned.checks import check_fits, check_full_size
from opsearch.policy.policy import Policy
from opsearch.progress import Progress, Say, Tick

if TYPE_CHECKING:
    from opsearch.measure.workers.ray_workers import RayWorkers

_SHARD = 8  # documents per job of a worker


def evaluate_tasks(
    path: Path,
    names: Sequence[str],
    source: AnswererModel,
    console: Console,
    workers: Workers | None = None,
) -> Evaluation:
    """Answer the tasks' documents with the original and with the policy of a run folder or file.

    Args:
        path: The run folder or policy file.
        names: Benchmarks, tasks of lmms-eval, or FOLDER/TASK.
        source: The model to answer with.
        console: For progress.
        workers: Workers on Ray that answer; None for this process.

    Raises:
        OpsearchError: Unknown names, data, policy or model that cannot be used, or a missing
            package.
    """
    policy = Policy.from_pretrained(path)
    check_full_size(policy, "lmms-eval")
    check_fits(policy, source.model.load_config())
    _check_model(policy, source.model.name)
    if source.limit is not None and source.limit < 1:
        raise DataError(
            f"--limit {source.limit} selects no documents; give a --limit of at least 1"
        )
    progress, answerer = Progress(console, 2 + 3 * len(names)), Answerer(source)
    seen = calibrated_on(path, progress.say)
    log = AnswerLog((path if path.is_dir() else path.parent) / FILE_NAME)
    located = [_absolute(name) for name in names]
    with progress.stage("loading the tasks"):
        benchmarks = [benchmark_of(answerer.task(name)[0]) for name in located]
    with _ray_workers(workers, source, progress.say) as remote:
        with progress.stage("loading the model"):
            model = remote.meet() if remote else answerer.load()
        passes = _Passes(answerer, remote, model, policy, log, progress, seen)
        scores = [passes.scores(*each) for each in zip(located, benchmarks, strict=True)]
    return Evaluation(source.model.name, source.limit, tuple(scores))


@contextmanager
def _ray_workers(
    workers: Workers | None, source: AnswererModel, say: Say
) -> Iterator[RayWorkers[Shard] | None]:
    """Start Ray workers, which load the model meanwhile; None where this process answers."""
    if workers is None:
        yield None
        return
    with on_ray(workers, source.model.device, say) as count:
        from opsearch.measure.workers.ray_workers import RayWorkers

        with closing(RayWorkers[Shard](count, RemoteAnswerer, source, say)) as remote:
            yield remote


def _absolute(name: str) -> str:
    """Return a task's name with an absolute folder, as workers start in another one."""
    folder, _, task = name.rpartition("/")
    return f"{Path(folder).resolve()}/{task}" if folder else task


class _Passes:
    """Both passes over each task with one model, one policy and one log."""

    def __init__(
        self,
        answerer: Answerer,
        remote: RayWorkers[Shard] | None,
        model: str,
        policy: Policy,
        log: AnswerLog,
        progress: Progress,
        seen: Seen,
    ) -> None:
        self.answerer, self.remote, self.model = answerer, remote, model
        self.policy, self.log, self.progress, self.seen = policy, log, progress, seen

    def scores(self, name: str, benchmark: Benchmark) -> TaskScores:
        """Run both passes over one task and score them."""
        (task, requests), short = self.answerer.task(name), name.rpartition("/")[2]
        digests, links = [], []
        with self.progress.stage(f"{short}, reading") as tick:
            for request in requests:
                item = lmms_item(task, request.doc_id)
                digests.append(item.digest())
                links.append(item_links(item))
                tick(len(digests), len(requests))
        kept = [i for i, unseen in enumerate(unseen_rows(links, self.seen)) if unseen]
        if not kept:
            raise DataError(
                f"the policy was searched on all {len(digests)} selected documents of task "
                f"{short}, or on their images; give a larger --limit or another task"
            )
        kept_digests = {i: digests[i] for i in kept}
        texts, metrics = [], []
        for title, policy in ((f"{short}, original", None), (f"{short}, policy", self.policy)):
            with self.progress.stage(title) as tick:
                texts.append(self._texts(name, kept_digests, policy, tick))
                metrics.append(results(task, [requests[i] for i in kept], texts[-1]))
        whole = len(kept) == len(task.eval_docs)
        figures = [benchmark.figure(task, each) for each in metrics] if whole else None
        return TaskScores(
            short,
            *_counted_scores(short, benchmark, metrics),
            dropped=len(digests) - len(kept),
            changed=sum(before != after for before, after in zip(*texts, strict=True)),
            official=(figures[0], figures[1]) if figures else None,
        )

    def _texts(
        self, name: str, digests: dict[int, str], policy: Policy | None, tick: Tick
    ) -> list[str]:
        """Return an answer for each document, from the log where it is known.

        New answers are logged at once.

        Args:
            name: The task, as for `Answerer.task`.
            digests: Digest of the model's input, by document.
            policy: The policy, None for the original.
            tick: Receives the number of new answers.
        """
        task, _ = self.answerer.task(name)
        keys = {i: answer_key(self.model, policy, task, digest) for i, digest in digests.items()}
        # Documents with equal inputs are answered once.
        todo = list({key: i for i, key in keys.items() if self.log.get(key) is None}.values())
        facts = {"task": task.config.task, "policy": policy_key(policy)[:12]}
        for done, (document, text) in enumerate(self._answered(name, todo, policy), 1):
            self.log.add(keys[document], text, document=document, **facts)
            tick(done, len(todo))
        return [self.log[key] for key in keys.values()]

    def _answered(
        self, name: str, documents: list[int], policy: Policy | None
    ) -> Iterator[tuple[int, str]]:
        """Yield documents with their answers as they come in."""
        if self.remote is None:
            shard = Shard(name, tuple(documents), policy)
            yield from zip(documents, self.answerer.answers(shard), strict=True)
            return
        starts = range(0, len(documents), _SHARD)
        shards = [Shard(name, tuple(documents[i : i + _SHARD]), policy) for i in starts]
        queue = Queue(shards, "give fewer --workers")
        for shard, texts in self.remote.work(queue, lambda actor, job: actor.answer.remote(job)):
            yield from zip(shard.documents, texts, strict=True)


def _counted_scores(
    name: str, benchmark: Benchmark, metrics: Sequence[Sequence[Metrics]]
) -> tuple[ScoreArray, ScoreArray]:
    """Return the scores of original and policy on the documents that count."""
    pairs = [
        (before, after)
        for before, after in zip(*(map(benchmark.sample, each) for each in metrics), strict=True)
        if before is not None and after is not None
    ]
    if not pairs:
        raise DataError(
            f"none of the selected documents of task {name} counts in its score; give a larger "
            "--limit"
        )
    original, policy = np.array(pairs, np.float64).T
    return original, policy


def _check_model(policy: Policy, model: str) -> None:
    """Raise PolicyError for a policy that was searched on a model of another name."""
    searched = policy.provenance.get("model")
    if isinstance(searched, str) and Path(searched).name != Path(model).name:
        raise PolicyError(
            f"the policy was searched on model {echo(searched, PATH)}, but the evaluated model is "
            f"{echo(model, PATH)}; give that one as --model, or remove `model` from the provenance "
            "of the policy"
        )
