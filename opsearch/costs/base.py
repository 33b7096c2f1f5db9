"""The contract of a cost: exact integers from the counts of a policy and a decoder's dimensions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np

from opsearch.costs.exact import Integers
from opsearch.errors import OpsearchError
from opsearch.formatting import screen_repr
from opsearch.policy.counts import Candidates, Counts
from opsearch.policy.policy import Policy
from opsearch.policy.schedule import RerankingTable

if TYPE_CHECKING:
    from opsearch.costs.latency_table import LatencyTable
    from opsearch.costs.shape import Shape


class SampleSize(NamedTuple):
    """Sizes of a sample on which its costs depend.

    Attributes:
        n_visual: Visual tokens.
        n_other: All other tokens, which are never pruned.
        image_flops: FLOPs of vision tower and projector, the same for every policy; None if they
            are not known.
        original: Sizes of the sample as the original model reads it, if they are others.
    """

    n_visual: int
    n_other: int
    image_flops: int | None = None
    original: SampleSize | None = None


SampleSizes = Sequence[SampleSize | tuple[int, int]]
"""Samples; a pair of numbers of visual and other tokens is one with unknown images."""

DEFAULT_COST = "flops"  # the cost of budgets such as `30%` or `5.8T`, which name none


@dataclass(frozen=True)
class CostLabel:
    """Names of a cost in tables and sentences.

    Attributes:
        amount: Label of the mean per sample.
        share: Label of the share of the stock model, in percent.
        scale: Divisor of the mean, e.g. 1e6 for ns in ms.
        words: Name in sentences; empty: the cost's name.
    """

    amount: str
    share: str
    scale: float = 1.0
    words: str = ""


@dataclass(frozen=True)
class CostSettings:
    """Inputs of a cost.

    Attributes:
        shape: The decoder's dimensions.
        table: Measured times of one layer, for costs of time.
    """

    shape: Shape
    table: LatencyTable | None = None

    __repr__ = screen_repr


class Cost(Protocol):
    """Maps the counts of a policy on one sample to an exact integer in `unit`.

    The class also has `from_settings(settings: CostSettings)`, which builds it. A cost that counts
    the images of a sample also has `of_images(image_flops: int) -> int`: what images with these
    FLOPs of vision tower and projector add to `of` and to `stock`. No policy changes it. A cost
    that counts rankers inside the decoder also has `of_rankings(rerankings, n_visual, n_other)`:
    what they add to `of`, for each policy of a `RerankingTable`.
    """

    @property
    def name(self) -> str:
        """Name in budgets, as in `30%kv`."""

    @property
    def unit(self) -> str:
        """Unit of the integers, with which an absolute budget ends, as in `200MB`."""

    @property
    def label(self) -> CostLabel:
        """Label in tables."""

    @property
    def timed(self) -> bool:
        """True if the cost is a time, which needs a measured table."""

    def of(
        self, counts: Counts, n_visual: int, n_other: int, candidates: Candidates | None = None
    ) -> Integers:
        """Return the costs of policies on one sample.

        Args:
            counts: Resolved counts as policies define them, int64[..., L, 3].
            n_visual: Visual tokens of the sample.
            n_other: Other tokens of the sample, which are never pruned.
            candidates: Tokens that rankers inside the decoder order (Policy.candidates). The
                operations of these rankers are not part of the result.

        Returns:
            int64[...], or Python integers in object[...] where int64 could wrap.
        """

    def stock(self, n_visual: int, n_other: int) -> int:
        """Return the cost of the original model on a sample."""


def budget_suffix(cost: str) -> str:
    """Return the text that follows the share in a budget of this cost, as in `30%kv`."""
    return "" if cost == DEFAULT_COST else cost


def policy_cost(cost: Cost, policy: Policy, n_visual: int, n_other: int) -> int:
    """Return the cost of one policy on one sample, without its images."""
    counts, rerankings = policy.resolve(n_visual), policy.schedule(n_visual).rerankings
    candidates = {each.layer: each.candidates for each in rerankings}
    table = RerankingTable.of([rerankings], len(counts))
    rankings = int(ranking_cost(cost, table, n_visual, n_other)[0]) if table else 0
    return int(cost.of(counts, n_visual, n_other, candidates)) + rankings


def ranking_cost(cost: Cost, rerankings: RerankingTable, n_visual: int, n_other: int) -> Integers:
    """Return what rankers inside the decoder add to the cost of P policies, [P]; mostly 0."""
    of_rankings = getattr(cost, "of_rankings", None)
    if of_rankings is None:
        return np.zeros(len(rerankings.ranker), np.int64)
    return np.asarray(of_rankings(rerankings, n_visual, n_other))


def image_cost(cost: Cost, samples: Iterable[SampleSize]) -> int:
    """Return what the images of samples add to the cost of every policy, 0 for most costs.

    Raises:
        OpsearchError: The cost counts images, and the FLOPs of some are not known.
    """
    of_images = getattr(cost, "of_images", None)
    if of_images is None:
        return 0
    flops = [sample.image_flops for sample in samples]
    known = [each for each in flops if each is not None]
    if len(known) < len(flops):
        raise OpsearchError(
            f"cost {cost.name} counts the vision tower, and its FLOPs are not known for "
            f"{len(flops) - len(known):,} of {len(flops):,} samples: the tower or a video is of "
            "another kind than those in docs/costs.md, or an earlier version of opsearch stored "
            "the samples; repeat `opsearch run`, or limit the decoder, e.g. --budget 30%"
        )
    return sum(int(of_images(each)) for each in known)


def total_image_flops(samples: Iterable[SampleSize]) -> int | None:
    """Return the FLOPs of vision tower and projector for all samples; None if some are unknown."""
    flops = [sample.image_flops for sample in samples]
    known = [each for each in flops if each is not None]
    return sum(known) if len(known) == len(flops) else None


def at_full_size(samples: Iterable[SampleSize]) -> list[SampleSize]:
    """Return the sizes of samples as the original model reads them."""
    return [sample.original or sample for sample in samples]


def stock_cost(cost: Cost, samples: Iterable[SampleSize]) -> int:
    """Return the cost of the original on samples as it reads them.

    Raises:
        OpsearchError: The cost counts images, and the FLOPs of some are not known.
    """
    sizes = at_full_size(samples)
    pairs = Counter((size.n_visual, size.n_other) for size in sizes).items()
    return image_cost(cost, sizes) + sum(k * cost.stock(n, t) for (n, t), k in pairs)
