"""Costs of points that include the images of the samples, a constant that no policy changes."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from opsearch.costs.exact import Integers, within
from opsearch.formatting import screen_repr
from opsearch.problem.spaces.base import PointCosts, Space
from opsearch.problem.spaces.operation_costs import OperationCosts


@dataclass(frozen=True, eq=False)
class ImageCosts:
    """Costs of points beside a constant.

    Attributes:
        costs: Costs without the images.
        images: What the images of all samples cost.
    """

    costs: PointCosts
    images: int

    __repr__ = screen_repr

    @property
    def space(self) -> Space:
        """The space of the points."""
        return self.costs.space

    def __getitem__(self, index: int) -> int:
        """Return the cost of a point."""
        return self.costs[index] + self.images

    def cheapest(self) -> int:
        """Return the number of a cheapest point."""
        return self.costs.cheapest()


def with_images(costs: Integers | PointCosts, images: int) -> Integers | PointCosts:
    """Return costs of points with the images of all samples, exactly."""
    if not images:
        return costs
    if isinstance(costs, np.ndarray):
        return np.asarray(within(costs, int(costs.max(initial=0)) + images) + images)
    if isinstance(costs, OperationCosts):  # integer programs read its base
        return replace(costs, base=costs.base + images)
    return ImageCosts(costs, images)
