"""Tasks of lmms-eval and their documents (needs `opsearch[lmms]`).

    textvqa_val             a task of lmms-eval
    my/folder/textvqa_val   a task from a folder of task YAML files
    embedded_color          a family of the embedded tasks

Documents are read as lmms-eval's chat models read them.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from PIL import Image

from opsearch.data.item import Item
from opsearch.errors import DataError, OpsearchError, UnknownNameError

PREFIX = "lmms:"
EMBEDDED = Path(__file__).parent / "lmms_tasks"
_LISTED = "the single tasks of `lmms-eval --tasks list`"
_INSTALL = "pip install 'opsearch[lmms]'"


def require_lmms() -> None:
    """Import lmms-eval and disable its log; raise OpsearchError if it is not installed."""
    try:
        import lmms_eval.tasks  # noqa: F401
        from loguru import logger
    except ImportError as error:
        raise OpsearchError(
            f"tasks of lmms-eval need {error.name or error}, which is not installed; {_INSTALL}"
        ) from error
    logger.disable("lmms_eval")


def load_task(name: str, wrapper: str | None = None) -> Any:
    """Load a task of lmms-eval with its data.

    Args:
        name: Name of the task, or FOLDER/TASK.
        wrapper: Model wrapper whose prompts the task uses.

    Raises:
        UnknownNameError: There is no such task.
        DataError: The data cannot be loaded, the task has no images, or its answers are not
            generated text.
    """
    require_lmms()
    folder, _, task_name = name.rpartition("/")
    manager = _in_folder(folder or str(EMBEDDED), wrapper)
    if not folder and task_name not in _task_names(manager):
        manager = _built_in(wrapper)
    if task_name not in (known := _task_names(manager)):
        raise UnknownNameError("task", name, known if folder else [_LISTED])
    try:
        (task,) = manager.load_task_or_group([task_name], "chat").values()
    except (
        Exception
    ) as error:  # the hub, the file system and the task's code may raise any exception
        raise DataError(_data_error(manager, task_name, error)) from error
    _check(task, name)
    return task


def lmms_items(name: str, seed: int) -> Iterator[Item]:
    """Yield a task's documents with images as items, shuffled by the seed.

    The items have no answers, because the task's metric scores the predictions.
    """
    for items in lmms_rows(name, seed):
        yield from items


def lmms_rows(name: str, seed: int) -> LmmsRows:
    """Return a task's documents, shuffled by the seed."""
    task = load_task(name)
    order = list(range(len(task.eval_docs)))
    random.Random(seed).shuffle(order)
    return LmmsRows(task, order)


class LmmsRows(Sequence[list[Item]]):
    """Documents of a task, each read when it is indexed: its item, or none if it has no images.

    Args:
        task: The task.
        order: Numbers of the documents.
    """

    def __init__(self, task: Any, order: Sequence[int]) -> None:
        self._task, self._order = task, order

    def __len__(self) -> int:
        return len(self._order)

    def __getitem__(self, position: Any) -> Any:
        item = lmms_item(self._task, self._order[position])
        return [item] if item.images else []


def lmms_item(task: Any, index: int) -> Item:
    """Return a document as an item with the text and the images of its messages."""
    messages = task.doc_to_messages(task.eval_docs[index])
    parts = [part for message in messages for part in message["content"]]
    return Item(
        id=f"{task.config.task}/{index}",
        question="\n".join(part["text"] for part in parts if part["type"] == "text"),
        answers=(),
        images=tuple(_image(part["url"]) for part in parts if part["type"] == "image"),
        family=task.config.task,
    )


def _image(source: Any) -> Path | Image.Image:
    return source if isinstance(source, Image.Image) else Path(source)


def _in_folder(folder: str, wrapper: str | None) -> Any:
    from lmms_eval.tasks import TaskManager

    if not Path(folder).is_dir():
        raise DataError(
            f"the task folder {folder} does not exist; write FOLDER/TASK or the name of a task"
        )
    return TaskManager(include_path=folder, include_defaults=False, model_name=wrapper)


@cache
def _built_in(wrapper: str | None) -> Any:
    """Return the manager of lmms-eval's 2,000 tasks; cached, because listing takes seconds."""
    from lmms_eval.tasks import TaskManager

    return TaskManager(model_name=wrapper)


def _task_names(manager: Any) -> list[str]:
    """Return the names of single tasks, without groups, which have no score."""
    kinds = ("task", "python_task")
    return [name for name in manager.all_tasks if manager.task_index[name]["type"] in kinds]


def _data_error(manager: Any, name: str, error: Exception) -> str:
    """Return the error message, with the data file or the hub id."""
    settings = manager._get_config(name)
    files = (settings.get("dataset_kwargs") or {}).get("data_files")
    cause = error.last_attempt.exception() if hasattr(error, "last_attempt") else error
    reason = " ".join(str(cause).split())[:300]
    if files:
        return f"the data of task {name}, {files}, cannot be loaded ({reason}); correct the path"
    return (
        f"the data of task {name}, {settings.get('dataset_path')} of the Hugging Face hub, cannot "
        f"be loaded ({reason}); download it where there is a network, or unset HF_HUB_OFFLINE"
    )


def _check(task: Any, name: str) -> None:
    if task.OUTPUT_TYPE != "generate_until":
        raise DataError(
            f"task {name} has output type {task.OUTPUT_TYPE}, which generates no text; choose a "
            "task of output type generate_until"
        )
    indices = range(len(task.eval_docs))
    if not any(lmms_item(task, index).images for index in indices):
        raise DataError(
            f"task {name} has no images, so there are no visual tokens to prune; choose a task "
            "with images"
        )
