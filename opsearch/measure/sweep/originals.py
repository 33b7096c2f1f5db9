"""The original on the samples of a search, each of which is run once.

Rounds of a race, steps of a descent and repeated calls meet the same samples in ever new batches.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from opsearch.measure.sweep.original import (
    Reference,
    Target,
    make_reference,
    make_target,
    merge_references,
    of_equal_shape,
)
from opsearch.models.encoding import Sample
from opsearch.models.supported import check_supported
from opsearch.rankers.base import PROMPT_NEEDS

_KEPT_BYTES = 2 * 10**9


class Originals:
    """The original on samples, kept as far as memory allows.

    Args:
        model: The model.
        positions: Answer positions whose logits are compared.
    """

    def __init__(self, model: Any, positions: int) -> None:
        self.model, self.positions = model, positions
        self.family = check_supported(model)
        self._kept: dict[str, Reference] = {}  # one sample each, by its digest
        self._targets: dict[str, Target] = {}  # of samples at full size that settings change
        self._nbytes = 0

    def of(self, samples: Sequence[Sample], needs: Collection[str] = ()) -> Reference:
        """Return the original on samples of equal visual positions, padded to the longest.

        Args:
            samples: The samples.
            needs: Outputs of the vision tower that rankers read.

        Raises:
            ModelError: A logit is not finite; the message names the sample.
            OutOfMemoryError: A forward of those that are not kept does not fit.
        """
        captured = set(needs) - PROMPT_NEEDS
        found = {
            sample.digest: kept
            for sample in samples
            if (kept := self._kept.get(sample.digest)) and captured <= kept.prompt.captured.keys()
        }
        missing = [sample for sample in samples if sample.digest not in found]
        for group in of_equal_shape(missing):
            target = self._full_size(group)
            whole = make_reference(self.model, self.family, group, needs, self.positions, target)
            if len(group) == len(samples):
                self._keep(group, whole)
                return whole
            found |= self._keep(group, whole)
        return merge_references([found[sample.digest] for sample in samples], captured)

    def keep(self, samples: Sequence[Sample], needs: Collection[str], at_once: int) -> None:
        """Run the original on samples that will be asked for, as far as they are kept.

        Those of equal shape run together, which takes a fraction of the time of small batches.

        Args:
            samples: The samples.
            needs: Outputs of the vision tower that rankers read.
            at_once: Most samples in one forward.
        """
        for group in of_equal_shape(samples):
            for start in range(0, len(group), at_once):
                part = group[start : start + at_once]
                nbytes = self.of(part, needs).nbytes
                if self._nbytes + nbytes > _KEPT_BYTES:
                    return

    def _full_size(self, samples: Sequence[Sample]) -> Target | None:
        """Return the answers at full size to samples with image settings; None: they have none.

        They are kept, because each setting asks for them again.
        """
        if not any(sample.original for sample in samples):
            return None
        full = [sample.original or sample for sample in samples]
        missing = {each.digest: each for each in full if each.digest not in self._targets}
        found = {}
        if missing:
            new = make_target(self.model, self.family, list(missing.values()), self.positions)
            found = dict(zip(missing, new.split(), strict=True))
        target = Target.joined([{**self._targets, **found}[each.digest] for each in full])
        nbytes = sum(part.logits.nbytes for part in found.values())
        if self._nbytes + nbytes <= _KEPT_BYTES:
            self._targets |= found
            self._nbytes += nbytes
        return target

    def _keep(self, samples: Sequence[Sample], whole: Reference) -> dict[str, Reference]:
        """Split a reference into its samples, and keep all or none of them."""
        rows = {sample.digest: part for sample, part in zip(samples, whole.split(), strict=True)}
        replaced = sum(self._kept[digest].nbytes for digest in rows if digest in self._kept)
        if self._nbytes - replaced + whole.nbytes <= _KEPT_BYTES:
            self._kept |= rows
            self._nbytes += whole.nbytes - replaced
        return rows
