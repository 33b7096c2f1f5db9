"""Load items by name: the embedded tasks, a file, or a task of lmms-eval."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

from opsearch.data.embedded import embedded
from opsearch.data.files import load_file
from opsearch.data.item import Item
from opsearch.data.lmms import PREFIX, lmms_items


def load_items(
    source: str | Path,
    *,
    samples: int | None = None,
    split: str = "calibration",
    seed: int = 0,
) -> list[Item]:
    """Return items to search or to evaluate on.

    Args:
        source: `demo` for the embedded tasks, a JSON Lines or Parquet file, or `lmms:TASK`.
        samples: Number of items; None: all of a file, 64 of the embedded tasks or of a task.
        split: Of the embedded tasks: train, calibration, held-out or test.
        seed: Draws the items of the embedded tasks and of a task.

    Raises:
        DataError: The source cannot be read; names the file, the line and the remedy.
    """
    text = str(source)
    if text == "demo":
        return embedded(split, samples or 64, seed)
    if text.startswith(PREFIX):
        return list(islice(lmms_items(text.removeprefix(PREFIX), seed), samples or 64))
    return load_file(Path(source))[:samples]
