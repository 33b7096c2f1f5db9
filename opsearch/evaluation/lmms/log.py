"""lmms_answers.jsonl: log of every generated answer, keyed by all that it depends on.

lmms-eval's own cache identifies a model by its arguments only, and would return one policy's
answers for another.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from opsearch.errors import RunFolderError
from opsearch.policy.policy import Policy

FILE_NAME = "lmms_answers.jsonl"


class AnswerLog:
    """Answers by key; a line that was cut off when its process ended is ignored."""

    def __init__(self, path: Path) -> None:
        """Read the file if it exists.

        Raises:
            RunFolderError: The file cannot be read.
        """
        self.path = path
        self._texts: dict[str, str] = {}
        try:
            lines = path.read_bytes().split(b"\n") if path.exists() else []
        except OSError as error:
            raise RunFolderError(
                f"{path} cannot be read ({error.strerror}); make it readable or move it"
            ) from error
        for line in lines:
            try:
                row = json.loads(line)
                self._texts[row["key"]] = row["text"]
            except (ValueError, KeyError, TypeError):
                continue
        self._ended = not lines or not lines[-1]

    def get(self, key: str) -> str | None:
        """Return the answer, None when it is not known."""
        return self._texts.get(key)

    def __getitem__(self, key: str) -> str:
        """Return a known answer."""
        return self._texts[key]

    def add(self, key: str, text: str, **facts: Any) -> None:
        """Append an answer.

        Args:
            key: Its key.
            text: The answer.
            facts: Further fields (task, document, ...) for human readers of the file.

        Raises:
            RunFolderError: The file cannot be written.
        """
        line = json.dumps({"key": key, **facts, "text": text}, ensure_ascii=False) + "\n"
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(line if self._ended else "\n" + line)
        except OSError as error:
            raise RunFolderError(
                f"{self.path} cannot be written ({error.strerror}); free some space or make the "
                "folder writable, and run the same command again to resume"
            ) from error
        self._ended = True
        self._texts[key] = text


def answer_key(model: str, policy: Policy | None, task: Any, shown: str) -> str:
    """Return the key of an answer.

    Args:
        model: Digest of the model with its processor and wrapper, as `Answerer.load` returns it.
        policy: The policy, None for the original.
        task: The task.
        shown: Digest of the model's input.
    """
    settings = [task.config.task, shown, task.config.generation_kwargs]
    parts = [model, policy_key(policy), *settings]
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


def policy_key(policy: Policy | None) -> str:
    """Return a key of all that answers depend on in a policy; None is the original."""
    if policy is None:
        return "original"
    return policy.digest()
