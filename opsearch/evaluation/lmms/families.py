"""The embedded families of questions as tasks of lmms-eval, set in opsearch/data/lmms_tasks."""

from __future__ import annotations

from typing import Any

from datasets import Dataset, DatasetDict
from lmms_eval.api.task import ConfigurableMessagesTask

from opsearch.data.embedded import FAMILIES, embedded
from opsearch.evaluation.scoring import score as score_text


class EmbeddedTask(ConfigurableMessagesTask):  # type: ignore[misc]
    """Test items of one family; `metadata.samples` of its YAML file is their number."""

    def __init__(self, config: dict[str, Any]) -> None:
        """Read the settings of a YAML file of opsearch/data/lmms_tasks."""
        super().__init__(config={k: v for k, v in config.items() if k != "class"})

    def download(self, dataset_kwargs: Any = None) -> None:
        """Generate the items; nothing is downloaded."""
        family = self.config.dataset_name
        items = embedded("test", self.config.metadata["samples"] * len(FAMILIES))
        rows = [
            {"image": item.load_images()[0], "question": item.question, "answer": item.answers[0]}
            for item in items
            if item.family == family
        ]
        self.dataset = DatasetDict(test=Dataset.from_list(rows))
        self.dataset_no_image = DatasetDict(test=self.dataset["test"].remove_columns("image"))


def images(doc: dict[str, Any]) -> list[Any]:
    """Return the images of a document."""
    return [doc["image"]]


def score(doc: dict[str, Any], answers: list[str]) -> dict[str, float]:
    """Score as `opsearch eval` does."""
    return {"exact_match": score_text(answers[0], [doc["answer"]])}
