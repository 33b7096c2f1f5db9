"""Several draws of calibration samples, and test samples that none of their searches sees."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from opsearch.data.embedded import embedded
from opsearch.data.item import Item
from opsearch.data.rows import Rows
from opsearch.data.split import groups_of, split
from opsearch.errors import DataError
from opsearch.formatting import counted
from opsearch.progress import Tick
from opsearch.runs.config import RunConfig
from opsearch.runs.samples import repeats, shuffled


@dataclass(frozen=True)
class DrawnItems:
    """Items of several draws.

    Attributes:
        calibration: The calibration items of each draw.
        test: The test items, the same for all draws.
        notes: Sentences about how they were drawn.
    """

    calibration: tuple[list[Item], ...]
    test: list[Item]
    notes: tuple[str, ...] = ()


def draw_items(config: RunConfig, draws: int, test: int, tick: Tick | None = None) -> DrawnItems:
    """Return the items of several draws; no test item shares an image or a group with any of them.

    Of the embedded tasks, draw i has the calibration samples of the run's seed + i, and the test
    samples are those of the run's seed. Of other data, in the order of the run's seed, the first
    samples are draw 0, the next ones draw 1, and so on, so that no sample is in two draws.

    Args:
        config: The settings of the run.
        draws: Number of draws.
        test: Maximum number of test items.
        tick: Called with the number of samples found in the data and of those looked for.

    Raises:
        DataError: The data cannot be read, or hold too few samples for so many draws.
    """
    size = config.drawn_samples
    if config.data is None:
        parts = [embedded("calibration", size, config.seed + i) for i in range(draws)]
        return DrawnItems(tuple(parts), embedded("test", test, config.seed))
    rows = Rows(shuffled(str(config.data), config.seed))
    found = split(rows, draws * size, test, tick)
    if len(found.calibration) < draws * size or not found.heldout:
        raise DataError(_too_few(config, draws, rows))
    parts = [
        [rows.sample(digest) for digest in found.calibration[i * size : (i + 1) * size]]
        for i in range(draws)
    ]
    notes = (repeats(rows), _shortage(config, found.heldout, test))
    tested = [rows.sample(digest) for digest in found.heldout]
    return DrawnItems(tuple(parts), tested, tuple(filter(None, notes)))


def _too_few(config: RunConfig, draws: int, rows: Rows) -> str:
    """Describe how many samples the draws need, how many there are, and what to do."""
    size, groups = config.drawn_samples, len(set(groups_of(rows).values()))
    there = counted(len(rows.digests), "sample")
    if groups < len(rows.digests):
        there += f' in {counted(groups, "group")} that share an image or a "group"'
    return (
        f"--draws {draws} needs {draws * size} calibration samples, {size} for each draw, and "
        f"test samples that share no image or group with them, but {config.data} has {there}; "
        "take fewer draws, add samples, or compare a run with fewer --samples"
    )


def _shortage(config: RunConfig, tested: Sequence[str], wanted: int) -> str:
    if len(tested) == wanted:
        return ""
    return (
        f"{config.data} has {len(tested)} of {wanted} test samples that share no image or group "
        "with the calibration samples of any draw"
    )
