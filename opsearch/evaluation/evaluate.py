"""`opsearch eval`: scores of original and policy on samples the policy was not searched on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from opsearch.adaptive.guarantee import loss_limit
from opsearch.adaptive.load import Method, load_method, members
from opsearch.adaptive.policy_set import PolicySet
from opsearch.adaptive.read import choose
from opsearch.console import PlainConsole
from opsearch.costs.base import policy_cost, stock_cost
from opsearch.costs.flops import Flops
from opsearch.costs.shape import Shape
from opsearch.data.embedded import embedded
from opsearch.data.files import load_file
from opsearch.data.groups import Seen
from opsearch.data.item import Item
from opsearch.data.rows import Rows, bundled
from opsearch.data.split import take_unseen
from opsearch.errors import DataError, RunFolderError
from opsearch.evaluation.answers import (
    Answers,
    answer,
    check_answers,
    describe_cut_answers,
    relative_average,
)
from opsearch.formatting import counted, screen_repr
from opsearch.models.encoding import Sample, encode
from opsearch.models.image_settings import encode_for
from opsearch.models.positions import check_answer_positions
from opsearch.models.pruned.checks import check_fits
from opsearch.models.spec import ModelSpec
from opsearch.progress import Progress
from opsearch.runs.run_folder import RunFolder, folder_of
from opsearch.runs.samples import repeats

_STAGES = 4


@dataclass(frozen=True)
class Scores:
    """Answers of the original and under the policy to the same samples.

    Attributes:
        original: Answers of the original.
        policy: Answers under the policy.
        dropped: Number of samples excluded because the policy was searched on them, or on samples
            with an image or a group in common.
        flops: FLOPs of the decoder's prefill over those of the original, mean over the samples;
            None if they were not counted.
    """

    original: Answers
    policy: Answers
    dropped: int
    flops: float | None = None

    __repr__ = screen_repr

    @property
    def relative(self) -> float:
        """Rel. Avg. over families."""
        return relative_average(self.policy.by_family(), self.original.by_family())

    @property
    def worse(self) -> float:
        """Share of new answers that become worse than the original's at most, with 95 % confidence.

        An answer that loses a part of its score counts in part. It holds for questions of the same
        distribution, if the policy was chosen without these samples; see `loss_limit`.
        """
        return loss_limit(np.maximum(self.original.scores - self.policy.scores, 0.0))

    @property
    def changed(self) -> int:
        """Number of samples whose answer differs."""
        pairs = zip(self.original.texts, self.policy.texts, strict=True)
        return sum(before != after for before, after in pairs)

    @property
    def cut(self) -> str:
        """Number of answers that were cut at their maximum length, as a sentence; or empty."""
        return describe_cut_answers({"the original": self.original, "the policy": self.policy})


def evaluate(
    path: Path,
    model: ModelSpec,
    *,
    data: Path | None = None,
    samples: int = 300,
    split: str = "test",
    seed: int = 0,
    answer_tokens: int | None = None,
    console: Console | None = None,
) -> Scores:
    """Generate answers with the original and with the policy, or the set, of a folder or file.

    Samples on which the policy was searched are excluded, with all that share an image or a group
    with them. Rows that repeat the question and the images of another are one sample.

    Args:
        path: Run folder, policy file, or folder of a policy set.
        model: The model, and how its weights are loaded.
        data: Data file; None: the embedded tasks.
        samples: Maximum number of samples, from the start of the data.
        split: Split of the embedded tasks.
        seed: Seed of the embedded tasks.
        answer_tokens: Maximum number of tokens per answer; None: by the accepted answers.
        console: Console for progress; None: standard error.

    Raises:
        OpsearchError: Policy, model or data cannot be used, or no sample is left.
    """
    progress = Progress(console or PlainConsole(stderr=True), _STAGES)
    policy = load_method(path)
    model.check()
    config, processor = model.load_config(), model.load_processor()
    for each in members(policy):
        check_fits(each, config)
    kept, dropped = unseen_items(
        path, data=data, samples=samples, split=split, seed=seed, progress=progress
    )
    with progress.stage(f"encoding {counted(len(kept), 'sample')}") as tick:
        encoded = encode(kept, processor, config, lambda done: tick(done, len(kept)), progress.say)
    check_answer_positions(encoded, processor, config, answer_tokens)
    with progress.stage("loading the model"):
        loaded = model.load()
    return answer_both(
        loaded, processor, encoded, policy, progress, dropped, answer_tokens=answer_tokens
    )


def unseen_items(
    path: Path, *, data: Path | None, samples: int, split: str, seed: int, progress: Progress
) -> tuple[list[Item], int]:
    """Return items that a policy was not searched on, and the number of excluded ones.

    Arguments and errors are those of `evaluate`.
    """
    rows = Rows(bundled(load_file(data) if data else embedded(split, samples, seed)))
    seen = calibrated_on(path, progress.say)
    kept = [rows.sample(digest) for digest in take_unseen(rows, seen.links, samples)]
    dropped = len(rows.digests) - len(kept)
    if not kept:
        raise DataError(
            f"the policy was searched on all {dropped} samples, or on samples that share an image "
            "or a group with them; choose others with --data or --split"
        )
    check_answers(kept)
    if note := repeats(rows):
        progress.say(note)
    return kept, dropped


def answer_both(
    model: Any,
    processor: Any,
    samples: Sequence[Sample],
    policy: Method,
    progress: Progress,
    dropped: int = 0,
    original: Answers | None = None,
    answer_tokens: int | None = None,
) -> Scores:
    """Generate answers to encoded samples with the original and with the policy.

    The policy reads images with its image setting, the original at full size.

    Args:
        model: The loaded model.
        processor: Its processor.
        samples: Samples with answers to score against, as the processor encodes them by itself.
        policy: The policy, or a set of which each sample runs one.
        progress: Progress, with a stage left for each generation.
        dropped: Number of excluded samples, for the result.
        original: Answers of the original; None: generate them.
        answer_tokens: Maximum number of tokens per answer; None: by the accepted answers.
    """
    first, *_ = members(policy)  # those of a set have one image setting
    if first.images is not None:
        progress.say(f"the policy reads images at {first.images}")
    read = encode_for(first, samples, processor, model.config)
    if original is None:
        with progress.stage("answering with the original") as tick:
            original = answer(model, processor, samples, progress=tick, answer_tokens=answer_tokens)
    with progress.stage("answering with the policy") as tick:
        pruned = answer(model, processor, read, policy, progress=tick, answer_tokens=answer_tokens)
    return Scores(original, pruned, dropped, flops_share(policy, model, read))


def calibrated_on(path: Path, say: Callable[[str], None]) -> Seen:
    """Return the samples that a policy was searched on.

    Print a note if they are not recorded.
    """
    try:
        return RunFolder(folder_of(path)).seen()
    except RunFolderError as error:
        say(f"no samples are excluded: {error}")
        return Seen()


def flops_share(policy: Method, model: Any, samples: Sequence[Sample]) -> float:
    """Return the FLOPs of the decoder's prefill over those of the original, on all samples.

    Args:
        policy: The policy, or a set of which each sample runs one.
        model: The model.
        samples: Samples as the policy reads them.
    """
    cost, each = Flops(Shape.from_config(model.config)), members(policy)
    chosen = choose(policy, model, samples) if isinstance(policy, PolicySet) else [0] * len(samples)
    sizes = [sample.size for sample in samples]
    spent = sum(
        times * policy_cost(cost, each[index], size.n_visual, size.n_other)
        for (index, size), times in Counter(zip(chosen, sizes, strict=True)).items()
    )
    return spent / stock_cost(cost, sizes)
