"""lmms_answers.jsonl: every generated answer, by what it depends on, as soon as it is there.

lmms-eval's own cache knows a model by its arguments only, and would serve one policy's answers to
another.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from opsearch.errors import RunFolderError
from opsearch.policy import Policy

FILE_NAME = "lmms_answers.jsonl"


class AnswerLog:
    """Answers by key; a line that was cut off when its process ended is written anew."""

    def __init__(self, path: Path) -> None:
        """Read what is there; RunFolderError when the file cannot be read."""
        self.path = path
        self._texts: dict[str, str] = {}
        try:
            lines = path.read_bytes().split(b"\n") if path.exists() else []
        except OSError as error:
            raise RunFolderError(
                f"{path} cannot be read ({error.strerror}); make it readable or move it away"
            ) from error
        for line in lines:
            try:
                row = json.loads(line)
                self._texts[row["key"]] = row["text"]
            except (ValueError, KeyError, TypeError):
                continue
        self._ended = not lines or not lines[-1]

    def get(self, key: str) -> str | None:
        """The answer, None when it is not known yet."""
        return self._texts.get(key)

    def __getitem__(self, key: str) -> str:
        """An answer that is known."""
        return self._texts[key]

    def add(self, key: str, text: str, **facts: Any) -> None:
        """Append an answer; `facts` (task, document, ...) are for people who read the file."""
        line = json.dumps({"key": key, **facts, "text": text}, ensure_ascii=False) + "\n"
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(line if self._ended else "\n" + line)
        except OSError as error:
            raise RunFolderError(
                f"{self.path} cannot be written ({error.strerror}); free some space or make the "
                "folder writable, the same command goes on where it stopped"
            ) from error
        self._ended = True
        self._texts[key] = text


def answer_key(model: str, policy: Policy | None, task: Any, shown: str) -> str:
    """What an answer is kept under; model, shown: digests of the model and of what it is shown."""
    settings = [task.config.task, shown, task.config.generation_kwargs]
    parts = [model, policy_key(policy), *settings]
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


def policy_key(policy: Policy | None) -> str:
    """What answers depend on of a policy; None is the original."""
    if policy is None:
        return "original"
    counts = [[str(count) for count in triple] for triple in policy.counts]
    rankers = [(layer, str(spec)) for layer, spec in policy.rankers]
    return hashlib.sha256(json.dumps([policy.unit, counts, rankers]).encode()).hexdigest()
