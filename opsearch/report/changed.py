"""Held-out samples whose answer the policy changed, from the stored answers of a run."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO

from PIL import Image

from opsearch.data.embedded import embedded
from opsearch.data.files import load_file
from opsearch.data.item import Item
from opsearch.data.lmms import PREFIX as LMMS_PREFIX
from opsearch.data.rows import bundled, merged
from opsearch.errors import DataError, RunFolderError
from opsearch.measure.storage.records import HELD_OUT, StoredAnswer, StoredSample
from opsearch.measure.storage.store import Store
from opsearch.models.answer_length import Length
from opsearch.policy.builders import identity
from opsearch.policy.policy import Policy
from opsearch.report.cut_answers import describe_cut
from opsearch.report.stored import Stored
from opsearch.runs.config import IN_MEMORY, RunConfig

_SHOWN = 12
_LONGEST_SIDE = 320


@dataclass(frozen=True)
class ChangedAnswer:
    """One sample with both answers.

    Attributes:
        sample: The stored sample.
        item: The item, None if the data no longer contain it.
        original: The original's answer.
        policy: The policy's answer.
        picture: Data URI of its first image, or empty.
        missing: Reason why there is no image.
    """

    sample: StoredSample
    item: Item | None
    original: StoredAnswer
    policy: StoredAnswer
    picture: str
    missing: str


@dataclass(frozen=True)
class Changed:
    """Held-out answers and their changes.

    Attributes:
        answers: Number of held-out answers.
        changed: Number of changed ones.
        lost: Changed answers with a lower score.
        gained: Changed answers with a higher score.
        cut: Number of answers that were cut at their maximum length, as a sentence; or empty.
        examples: The first changed ones.
    """

    answers: int
    changed: int
    lost: int
    gained: int
    cut: str
    examples: tuple[ChangedAnswer, ...]


def changed_answers(stored: Stored) -> Changed:
    """Compare the stored answers of the original and the policy.

    Raises:
        RunFolderError: The answers are not stored.
    """
    with Store(stored.folder.measurements, result=stored.folder.name) as store:
        samples = store.samples(HELD_OUT)
        if not samples:
            raise RunFolderError(
                "No answers were compared, because the run has no held-out samples."
            )
        full = [sample.original or sample for sample in samples]
        original = _answers(store, full, identity(stored.policy.num_layers))
        policy = _answers(store, samples, stored.policy)
    if original is None or policy is None:
        raise RunFolderError(
            "The answers of this policy to the held-out questions are not stored, because it was "
            "not compared yet or the data have no answers."
        )
    rows = [
        row for row in zip(samples, original, policy, strict=True) if row[1].text != row[2].text
    ]
    items = _Items(stored.config)
    return Changed(
        answers=len(samples),
        changed=len(rows),
        lost=sum(before.score > after.score for _, before, after in rows),
        gained=sum(before.score < after.score for _, before, after in rows),
        cut=describe_cut({"the original": _lengths(original), "the policy": _lengths(policy)}),
        examples=tuple(items.example(*row) for row in rows[:_SHOWN]),
    )


def _answers(
    store: Store, samples: Sequence[StoredSample], policy: Policy
) -> list[StoredAnswer] | None:
    """Return the answers of a policy to all samples, None when one is missing."""
    keys = [policy.canonical(sample.n_visual) for sample in samples]
    found = store.answers(keys)
    wanted = [(key, sample.item) for key, sample in zip(keys, samples, strict=True)]
    return [found[each] for each in wanted] if all(each in found for each in wanted) else None


def _lengths(answers: Sequence[StoredAnswer]) -> list[Length]:
    return [Length(each.tokens, each.cut) for each in answers]


class _Items:
    """The items of a run's data by id; opens only the images that are shown."""

    def __init__(self, config: RunConfig) -> None:
        self._reason = "the data no longer contain this sample"
        items: list[Item] = []
        if config.data is None:
            items = embedded("held-out", config.heldout, config.seed)
        elif str(config.data) == IN_MEMORY:
            self._reason = "the run searched on samples in memory, which its folder does not hold"
        elif str(config.data).startswith(LMMS_PREFIX):
            self._reason = f"the report does not load the documents of {config.data}"
        else:
            try:
                items = [merged(rows) for rows in bundled(load_file(config.data))]
            except DataError as error:
                self._reason = str(error)
        self._by_id = {item.id: item for item in items}

    def example(
        self, sample: StoredSample, original: StoredAnswer, policy: StoredAnswer
    ) -> ChangedAnswer:
        """Return both answers with the question and its image, or the reason why it has none."""
        item = self._by_id.get(sample.name)
        picture, missing = "", self._reason
        if item is not None:
            try:
                missing = "the question has no image"
                if images := item.load_images():
                    picture, missing = _data_uri(images[0]), ""
                if item.digest() != sample.content:
                    item, picture, missing = (
                        None,
                        "",
                        "the data of this sample changed since the run, or the run is of an "
                        "earlier version",
                    )
            except DataError as error:
                missing = str(error)
        return ChangedAnswer(
            sample=sample,
            item=item,
            original=original,
            policy=policy,
            picture=picture,
            missing=missing,
        )


def _data_uri(image: Image.Image) -> str:
    """Encode an image, scaled down if it is large, in the smaller of two formats."""
    small = image.copy()
    small.thumbnail((_LONGEST_SIDE, _LONGEST_SIDE))
    encoded = {}
    for kind in ("png", "jpeg"):
        buffer = BytesIO()
        small.save(buffer, kind)
        encoded[kind] = buffer.getvalue()
    kind = min(encoded, key=lambda name: len(encoded[name]))
    return f"data:image/{kind};base64,{base64.b64encode(encoded[kind]).decode()}"
