"""`python -m benchmarks.lmms_overhead`: time of `opsearch eval --tasks` against plain lmms-eval.

Both load the embedded model in the same wrapper and answer the same questions twice: opsearch with
the original and under the identity policy, which installs nothing, lmms-eval in two evaluations.
"""

from __future__ import annotations

import io
import json
import tempfile
import time
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from opsearch.data.embedded import embedded
from opsearch.errors import OpsearchError
from opsearch.evaluation.lmms.answerer import AnswererModel
from opsearch.evaluation.lmms.evaluate import evaluate_tasks
from opsearch.evaluation.lmms.wrappers import load_wrapper
from opsearch.models.loading import load_config
from opsearch.models.spec import ModelSpec
from opsearch.policy.builders import identity

_QUESTIONS = 40
_SIZE = (640, 480)  # of a photograph: far more to decode than the embedded model's pictures
_PAIRS = 7  # the true median lies between the smallest and the largest with 98 %
_NAME = "made"


def overhead() -> Iterator[dict[str, Any]]:
    """Yield a row per pair of evaluations, in alternating order, then a summary of the ratios.

    Seconds are processor time of this process. `answering` is the part of lmms-eval's time in which
    the wrapper answers, so that its ratio bounds the cost of everything else.
    """
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _write(folder)
        for pair in range(-1, _PAIRS):  # the first one warms up
            if pair % 2:
                plain, ours = _plain(folder), _ours(folder)
            else:
                ours, plain = _ours(folder), _plain(folder)
            row = {"opsearch": ours, **plain}
            row |= {f"to_{part}": ours / seconds for part, seconds in plain.items()}
            if pair >= 0:
                rows.append(row)
                yield row
    for part in ("to_plain", "to_answering"):
        found = np.sort([row[part] for row in rows])
        yield {part: [found[0], float(np.median(found)), found[-1]]}


def _write(folder: Path) -> None:
    """Write a task over a parquet file: embedded questions with enlarged pictures."""
    from datasets import Dataset, Image

    rows = []
    for item in embedded("test", _QUESTIONS):
        file = io.BytesIO()
        item.load_images()[0].resize(_SIZE).save(file, "JPEG", quality=90)
        image = {"bytes": file.getvalue(), "path": None}
        rows.append({"image": image, "question": item.question, "answer": item.answers[0]})
    data = Dataset.from_list(rows).cast_column("image", Image())
    with redirect_stderr(io.StringIO()):
        data.to_parquet(folder / "made.parquet")
    (folder / f"{_NAME}.yaml").write_text(
        f"task: {_NAME}\noutput_type: generate_until\ntest_split: test\ndataset_path: parquet\n"
        f"dataset_kwargs: {{data_files: {{test: {folder}/made.parquet}}}}\n"
        "doc_to_text: question\ndoc_to_target: answer\n"
        "doc_to_visual: !function opsearch.evaluation.lmms.families.images\n"
        "process_results: !function opsearch.evaluation.lmms.families.score\n"
        "generation_kwargs: {max_new_tokens: 16}\n"
        "metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]\n"
    )


def _plain(folder: Path) -> dict[str, float]:
    """Time two evaluations of one loaded model by lmms-eval, and the answering within them."""
    from lmms_eval.evaluator import simple_evaluate
    from lmms_eval.tasks import TaskManager

    answering = 0.0

    def timed(requests: list[Any]) -> Any:
        nonlocal answering
        begun = time.process_time()
        answers = generate(requests)
        answering += time.process_time() - begun
        return answers

    start = time.process_time()
    wrapper = load_wrapper(ModelSpec("demo", "float32", "cpu"))
    generate, model = wrapper.generate_until, wrapper._model
    wrapper.generate_until = timed
    settings = {"batch_size": 1, "bootstrap_iters": 0, "log_samples": False}
    for _ in range(2):
        wrapper._model = model  # simple_evaluate removes it at the end
        manager = TaskManager(include_path=str(folder), include_defaults=False)
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            simple_evaluate(wrapper, tasks=[_NAME], task_manager=manager, **settings)
    return {"plain": time.process_time() - start, "answering": answering}


def _ours(folder: Path) -> float:
    layers = load_config("demo").get_text_config().num_hidden_layers
    with tempfile.TemporaryDirectory() as name:
        identity(layers).save_pretrained(name)
        source = AnswererModel(ModelSpec(), None)
        start = time.process_time()
        evaluate_tasks(Path(name), [f"{folder}/{_NAME}"], source, Console(file=io.StringIO()))
        return time.process_time() - start


if __name__ == "__main__":
    try:
        for row in overhead():
            print(json.dumps(row), flush=True)
    except OpsearchError as error:
        raise SystemExit(f"error: {error}") from None
