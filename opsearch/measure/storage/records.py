"""Records of the measurement store."""

from __future__ import annotations

from dataclasses import dataclass

from opsearch.costs.base import SampleSize

CALIBRATION, HELD_OUT = "calibration", "held-out"
COMPARED, COMPARED_CALIBRATION = "compared", "compared calibration"
BEGUN = "begun"
"""Names of splits. A comparison has splits of its own, which outlive changes of the run's. The
calibration samples are listed as begun before the first measurement, and as such when all are made,
so that an interrupted run leaves the answer before it as it was."""
FULL_SIZE = ", full size"
"""End of the name of a split whose samples are those of another one as the original reads them."""
COLUMNS = ("kl", "reverse_kl", "js", "top1")


@dataclass(frozen=True)
class Measurement:
    """Divergences of one policy on one sample.

    Attributes:
        policy: Canonical key of the policy.
        item: Digest of the sample.
        kl: KL(original || pruned) in nats.
        reverse_kl: KL(pruned || original) in nats.
        js: Jensen-Shannon divergence in nats.
        top1: Share of answer positions with the same most likely token.
    """

    policy: str
    item: str
    kl: float
    reverse_kl: float
    js: float
    top1: float


@dataclass(frozen=True)
class GateGradient:
    """Gradient of the gates that one policy closes on one sample.

    Attributes:
        policy: Canonical key of the policy.
        item: Digest of the sample.
        value: Nats per unit of a gate, at least 0.
    """

    policy: str
    item: str
    value: float


@dataclass(frozen=True)
class StoredAnswer:
    """The answer generated for a sample under a policy.

    Attributes:
        policy: Canonical key of the policy.
        item: Digest of the sample.
        text: The answer.
        score: Its score between 0 and 1.
        tokens: Number of its tokens, including the end token; 0 if unknown.
        cut: True if it reached its maximum length without an end token.
    """

    policy: str
    item: str
    text: str
    score: float
    tokens: int = 0
    cut: bool = False


@dataclass(frozen=True)
class Compared:
    """A method's policy at a budget.

    Attributes:
        budget: Text of the budget.
        method: Name of the method.
        policy: Text of the policy file.
    """

    budget: str
    method: str
    policy: str


@dataclass(frozen=True)
class StoredSample:
    """A sample as analysis needs it, without images and text.

    Attributes:
        item: Digest of the sample, the key of its numbers.
        name: Id of the sample.
        family: Family of the question.
        n_visual: Visual tokens.
        n_other: All other tokens of the prompt.
        content: Digest of its question and images.
        image_flops: FLOPs of vision tower and projector; None if they are not known.
        original: The sample as the original reads it; None: this one.
    """

    item: str
    name: str
    family: str
    n_visual: int
    n_other: int
    content: str
    image_flops: int | None = None
    original: StoredSample | None = None

    @property
    def size(self) -> SampleSize:
        """Sizes on which costs depend."""
        original = None if self.original is None else self.original.size
        return SampleSize(self.n_visual, self.n_other, self.image_flops, original)
