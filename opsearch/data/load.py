"""Loading of items by name: the embedded tasks, a file, or a task of lmms-eval."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

from opsearch.data.embedded import embedded
from opsearch.data.files import load_file
from opsearch.data.item import SAMPLES, Item
from opsearch.data.lmms import PREFIX, lmms_items
from opsearch.errors import DataError


def load_items(
    source: str | Path,
    *,
    samples: int | None = None,
    split: str = "calibration",
    seed: int = 0,
) -> list[Item]:
    """Return items for a search or an evaluation.

    Args:
        source: `demo` for the embedded tasks, a JSON Lines or Parquet file, a data-set folder
            (docs/data.md), or `lmms:TASK`.
        samples: Number of items; None: all of a file, 64 of the embedded tasks or of a task.
        split: Split of the embedded tasks: train, calibration, held-out or test.
        seed: Seed by which items of the embedded tasks or of a task are drawn.

    Raises:
        DataError: The source cannot be read (the message names file, line and remedy), or `samples`
            is below 1.
    """
    if samples is not None and samples < 1:
        raise DataError(f"{samples} samples were requested; request at least 1")
    text, drawn = str(source), SAMPLES if samples is None else samples
    if text == "demo":
        return embedded(split, drawn, seed)
    if text.startswith(PREFIX):
        return list(islice(lmms_items(text.removeprefix(PREFIX), seed), drawn))
    return load_file(Path(source))[:samples]
