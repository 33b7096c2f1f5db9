"""`opsearch eval`: a policy's scores beside the original's on items it was not searched on."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from opsearch.data.embedded import embedded
from opsearch.data.files import load_file
from opsearch.data.item import Item
from opsearch.errors import DataError
from opsearch.evaluation.answers import Answers, answer, relative_average
from opsearch.models.encoding import Sample, encode
from opsearch.models.loading import (
    check_attention,
    check_device,
    load_config,
    load_processor,
    load_weights,
)
from opsearch.models.pruned.checks import check_fits
from opsearch.policy.policy import Policy
from opsearch.progress import Progress
from opsearch.runs.run_folder import RunFolder

_STAGES = 4


@dataclass(frozen=True)
class Scores:
    """Answers of the original and under the policy to the same items.

    dropped: items left out because the policy was searched on them.
    """

    original: Answers
    policy: Answers
    dropped: int

    @property
    def relative(self) -> float:
        """Rel. Avg. over families."""
        return relative_average(self.policy.by_family(), self.original.by_family())

    @property
    def changed(self) -> int:
        """Number of items whose answer differs."""
        pairs = zip(self.original.texts, self.policy.texts, strict=True)
        return sum(before != after for before, after in pairs)


def evaluate(
    path: Path,
    model: str = "demo",
    data: Path | None = None,
    samples: int = 300,
    split: str = "test",
    seed: int = 0,
    dtype: str = "float32",
    device: str = "cpu",
    attention: str = "sdpa",
    console: Console | None = None,
) -> Scores:
    """Generate answers with the original and with the policy of a run folder or file.

    Items are the first `samples` of a JSONL file, or of a split of the embedded tasks; those that
    the policy was searched on are left out.
    """
    stages = Progress(console or Console(stderr=True, markup=False), _STAGES)
    policy = Policy.from_pretrained(path)
    check_device(device, dtype)
    check_attention(attention, dtype, device)
    config, processor = load_config(model), load_processor(model)
    check_fits(policy, config)
    items = load_file(data) if data else embedded(split, samples, seed)
    kept, dropped = _unseen(items, calibrated_on(path, stages.say), samples)
    if not kept:
        raise DataError(
            f"all {len(items)} items were used to search this policy; evaluate on other data"
        )
    with stages.stage(f"encoding {len(kept)} samples") as tick:
        encoded = encode(kept, processor, config, lambda done: tick(done, len(kept)))
    with stages.stage("loading the model"):
        loaded = load_weights(model, dtype, device, attention)
    return answer_both(loaded, processor, encoded, policy, stages, dropped)


def answer_both(
    model: Any,
    processor: Any,
    samples: Sequence[Sample],
    policy: Policy,
    progress: Progress,
    dropped: int = 0,
    original: Answers | None = None,
) -> Scores:
    """Generate answers to encoded samples with the original and with the policy.

    Args:
        model: The loaded model.
        processor: Its processor.
        samples: Samples with answers to score against.
        policy: The policy.
        progress: Shows two stages.
        dropped: Items that were left out, for the result.
        original: The original's answers; None: generated.
    """
    if original is None:
        with progress.stage("answering with the original") as tick:
            original = answer(model, processor, samples, progress=tick)
    with progress.stage("answering with the policy") as tick:
        pruned = answer(model, processor, samples, policy, progress=tick)
    return Scores(original, pruned, dropped)


def _unseen(items: Sequence[Item], used: set[str], count: int) -> tuple[list[Item], int]:
    """The first `count` items that were not used, and how many used ones were passed over."""
    kept: list[Item] = []
    passed = 0
    for item in items:
        if len(kept) == count:
            break
        if item.digest() in used:
            passed += 1
        else:
            kept.append(item)
    return kept, passed


def calibrated_on(path: Path, say: Callable[[str], None]) -> set[str]:
    """Digests of the items that a policy was searched on; says so where they are not known."""
    record = RunFolder(path if path.is_dir() else path.parent).solution
    try:
        return set(json.loads(record.read_text(encoding="utf-8"))["items"])
    except (OSError, ValueError, KeyError, TypeError):
        say(f"{record} does not say what this policy was searched on, so that nothing is left out")
        return set()
