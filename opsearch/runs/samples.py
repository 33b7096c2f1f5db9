"""Calibration samples of a run, and the held-out or test samples that judge it, from its data."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from opsearch.data.embedded import embedded
from opsearch.data.files import load_file
from opsearch.data.item import SAMPLES, Item
from opsearch.data.lmms import PREFIX as LMMS_PREFIX
from opsearch.data.lmms import lmms_rows
from opsearch.data.rows import Rows, bundled
from opsearch.data.split import groups_of, links_of, split, take_unseen
from opsearch.errors import DataError
from opsearch.formatting import counted
from opsearch.progress import Tick
from opsearch.runs.config import IN_MEMORY, RunConfig


@dataclass(frozen=True)
class RunItems:
    """Items of a run.

    Attributes:
        calibration: Those that are searched on.
        heldout: Those that judge what was found: held-out or test items.
        notes: Sentences about how they were drawn.
    """

    calibration: list[Item]
    heldout: list[Item]
    notes: tuple[str, ...] = ()


def run_items(config: RunConfig, test: int | None = None, tick: Tick | None = None) -> RunItems:
    """Return the items of calibration and held-out samples, which have no picture in common.

    The embedded tasks have a split for each. The rows of a file or of a task of lmms-eval are
    shuffled by the seed and divided by `opsearch.data.split`; no answer affects the division.

    Args:
        config: The settings of the run.
        test: Number of test samples to draw in place of the held-out ones, for the calibration
            samples of the run; None: none.
        tick: Called with the number of samples found in the data and of those looked for.

    Raises:
        DataError: The data cannot be read.
    """
    if config.data is None:
        named, count = ("held-out", config.heldout) if test is None else ("test", test)
        heldout = embedded(named, count, config.seed) if count else []
        return RunItems(embedded("calibration", config.drawn_samples, config.seed), heldout)
    rows = Rows(shuffled(str(config.data), config.seed))
    parts = split(rows, config.drawn_samples, config.heldout, tick)
    if config.samples is None and len(parts.heldout) < config.heldout:  # hence all rows were read
        fewer = max(len(rows.digests) - config.heldout, min(SAMPLES, config.drawn_samples))
        parts = split(rows, fewer, config.heldout, tick)
    calibration, heldout_digests = parts.calibration, parts.heldout
    if test is not None:
        heldout_digests = take_unseen(rows, links_of(rows, calibration), test, tick)
    drawn = _Drawn(config, rows, calibration, heldout_digests, test)
    return RunItems(
        [rows.sample(digest) for digest in calibration],
        [rows.sample(digest) for digest in heldout_digests],
        drawn.notes(),
    )


def given_items(items: Sequence[Item], heldout: Sequence[Item]) -> RunItems:
    """Return items that were given as calibration and held-out ones, repeated ones merged.

    A note tells how many held-out ones share an image or a group with the calibration ones.
    """
    rows, others = Rows(bundled(items)), Rows(bundled(heldout))
    calibration = take_unseen(rows, (), len(items))
    unseen = take_unseen(others, links_of(rows, calibration), len(heldout))
    notes = [repeats(rows, "calibration items"), repeats(others, "held-out items")]
    if shared := len(others.digests) - len(unseen):
        notes.append(
            f"{shared} of {len(others.digests)} held-out samples share an image or a group with "
            "calibration samples, so their results do not show how the policy does on new images"
        )
    return RunItems(
        [rows.sample(digest) for digest in calibration],
        [others.sample(digest) for digest in others.digests],
        tuple(filter(None, notes)),
    )


def shuffled(data: str, seed: int) -> Sequence[Sequence[Item]]:
    """Return the rows of a file, or of lmms:TASK, in the order of a seed.

    Documents of a task are read as they are needed.

    Raises:
        DataError: The data cannot be read, or were samples in memory.
    """
    if data == IN_MEMORY:
        raise DataError(
            "this run searched on samples in memory, which its folder does not hold; "
            "give --data FILE"
        )
    if data.startswith(LMMS_PREFIX):
        return lmms_rows(data.removeprefix(LMMS_PREFIX), seed)
    items = load_file(Path(data))
    order = list(items)
    random.Random(seed).shuffle(order)
    return bundled(items, order)


@dataclass(frozen=True)
class _Drawn:
    """Drawn samples, to be described; `test` and `config` are those of `run_items`."""

    config: RunConfig
    rows: Rows
    calibration: Sequence[str]
    heldout: Sequence[str]
    test: int | None

    def notes(self) -> tuple[str, ...]:
        """Return which rows were merged, what was grouped, and which part is not full."""
        return tuple(filter(None, (repeats(self.rows), self._grouped(), self._shortage())))

    @property
    def _part(self) -> str:
        return "held-out" if self.test is None else "test"

    def _grouped(self) -> str:
        group_of = groups_of(self.rows)
        if len(set(group_of.values())) == len(group_of):
            return ""
        parts = {"calibration": self.calibration, self._part: self.heldout, "read": list(group_of)}
        first, second, read = (
            f"{counted(len(part), f'{name} sample')} "
            f"({counted(len({group_of[digest] for digest in part}), 'group')})"
            for name, part in parts.items()
        )
        return (
            f'samples that share an image or a "group" stay in one part: {first} and {second} of '
            f"{read}"
        )

    def _shortage(self) -> str:
        wanted = self.config.heldout if self.test is None else self.test
        found = len(self.calibration), len(self.heldout)
        if found[1] == wanted and (found[0] == self.config.samples or self.config.samples is None):
            return ""
        return (
            f"{self.config.data} has {found[0]} of {self.config.drawn_samples} calibration samples "
            f"and {found[1]} of {wanted} {self._part} samples{self._remedy(wanted)}"
        )

    def _remedy(self, wanted: int) -> str:
        groups = len(set(groups_of(self.rows).values()))
        if groups == 1 and len(self.rows.digests) > 1:
            return ', because all share an image or a "group"; add samples with other images'
        if wanted and len(self.rows.digests) == 1:
            return f"; add samples to have {self._part} ones"
        if wanted and not self.heldout:
            return f"; use fewer --samples to have {self._part} ones"
        if len(self.heldout) < min(wanted, len(self.rows.digests) - len(self.calibration)):
            return ', because samples that share an image or a "group" stay in one part'
        return ""


def repeats(rows: Rows, name: str = "rows") -> str:
    """Describe the rows that were merged, among those read; empty if none were."""
    repeated = rows.count - len(rows.digests)
    if not repeated:
        return ""
    several = sum(
        len({(item.family, item.metric) for item in rows.items(digest)}) > 1
        for digest in rows.digests
    )
    differ = f"; {several} have rows of several families or metrics, and the first counts"
    return (
        f"{repeated} of {rows.count} {name} repeat the question and the images of another, and "
        f"make one sample with it, which accepts the answers of all{differ if several else ''}"
    )
