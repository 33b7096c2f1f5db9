"""Accuracy of an exported model in ordinary use: pictures, prompts and `generate()`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForImageTextToText, AutoProcessor

from opsearch.data.embedded import embedded
from opsearch.data.item import Item
from opsearch.policy.policy import Policy
from training.batches import NAMES

_BATCH = 50


@dataclass(frozen=True)
class Score:
    """A model's result in a family.

    Attributes:
        accuracy: Share of right answers.
        majority: Accuracy of always giving the most frequent right answer.
        ended: Share of answers that are one word and <eos>.
        items: Number of questions.
        example: The first question.
    """

    accuracy: float
    majority: float
    ended: float
    items: int
    example: str


class Subject:
    """An exported model in float32, with its processor."""

    def __init__(self, folder: Path) -> None:
        self.model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).eval()
        self.processor = AutoProcessor.from_pretrained(folder)

    @torch.no_grad()
    def answers(self, items: Sequence[Item], policy: Policy | None = None) -> dict[str, list[str]]:
        """Return the generated words of each item, by its id."""
        found: dict[str, list[str]] = {}
        with policy.apply(self.model) if policy else nullcontext():
            for batch in _equal_length_batches(items):
                inputs = self._encode(batch)
                output = self.model.generate(**inputs, do_sample=False, max_new_tokens=8)
                for item, ids in zip(batch, output[:, inputs["input_ids"].shape[1] :], strict=True):
                    words = self.processor.tokenizer.convert_ids_to_tokens(ids)
                    found[item.id] = [word for word in words if word != "<pad>"]
        return found

    def _encode(self, items: Sequence[Item]) -> Any:
        prompts = []
        for item in items:
            content = [{"type": "image"}, {"type": "text", "text": item.question}]
            chat = [{"role": "user", "content": content}]
            prompts.append(self.processor.apply_chat_template(chat, add_generation_prompt=True))
        images = [image for item in items for image in item.load_images()]
        return self.processor(text=prompts, images=images, return_tensors="pt")


def _equal_length_batches(items: Sequence[Item]) -> Iterator[list[Item]]:
    """Yield batches of items with prompts of equal length, so that none is padded."""
    by_length: dict[int, list[Item]] = {}
    for item in items:
        by_length.setdefault(len(item.question.split()), []).append(item)
    for group in by_length.values():
        for start in range(0, len(group), _BATCH):
            yield group[start : start + _BATCH]


def measure(folder: Path, count: int) -> dict[str, Score]:
    """Measure an exported model on the first items of the test split, by family."""
    items = embedded("test", count)
    answers = Subject(folder).answers(items)
    return {
        name: _score([item for item in items if item.family == name], answers) for name in NAMES
    }


def accuracy(items: Sequence[Item], answers: dict[str, list[str]]) -> float:
    """Return the share of items whose first generated word is right."""
    return sum(answers[item.id][0] in item.answers for item in items) / len(items)


def _score(items: Sequence[Item], answers: dict[str, list[str]]) -> Score:
    truth = Counter(item.answers[0] for item in items)
    ended = [len(answers[item.id]) == 2 and answers[item.id][1] == "<eos>" for item in items]
    return Score(
        accuracy=accuracy(items, answers),
        majority=max(truth.values()) / len(items),
        ended=sum(ended) / len(items),
        items=len(items),
        example=items[0].question,
    )


def mean_accuracy(scores: dict[str, Score]) -> float:
    """Return the mean of the families' accuracies."""
    return sum(score.accuracy for score in scores.values()) / len(scores)


def as_json(scores: dict[str, Score]) -> dict[str, Any]:
    """Return the scores and their mean as plain data."""
    families = {name: asdict(score) for name, score in scores.items()}
    return {"mean": mean_accuracy(scores), "families": families}
