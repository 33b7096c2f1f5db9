"""KL of fractional token counts on samples, and its gradient with respect to the counts.

A policy keeps in each operation a prefix of the ranked visual tokens. Here an operation has a share
c between 0 and 1 instead, and the gates of its tokens fall smoothly from 1 to 0 around c, over a
`width` that a search lets shrink (`gates`). The divergence then has a gradient in all shares, which
costs about three forwards for all of them together. VisPCO (arXiv 2604.15188) relaxes its two
parameters in this way.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from math import ceil
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from opsearch.errors import ModelError
from opsearch.measure.layout import Ints, Layout
from opsearch.measure.planning.batches import SampleBatch
from opsearch.measure.relaxed.gated import GatedDecoder
from opsearch.measure.relaxed.threads import one_per_core
from opsearch.measure.sweep.divergence import divergence
from opsearch.measure.sweep.inputs import DecoderInputs
from opsearch.measure.sweep.original import Reference, check_finite, concat_padded
from opsearch.measure.sweep.originals import Originals
from opsearch.measure.sweep.reused_memory import reused_memory
from opsearch.models.decoder import Decoder
from opsearch.models.encoding import Sample
from opsearch.policy.counts import Shares
from opsearch.rankers.base import Ranker

Array = TypeVar("Array", Tensor, NDArray[np.float64])
Values = NDArray[np.float64]
_Part = tuple[list[int], SampleBatch]  # numbers among the given samples, and these


def gates(shares: Tensor, width: float, n_visual: int) -> Tensor:
    """Return the gates of the ranked tokens of each operation, [L, 3, N].

    A share of 0 opens the first tokens a little, so that an operation can return; it is closed as
    the width goes to 0.

    Args:
        shares: Share of each operation, [L, 3].
        width: Half of the share over which gates fall from 1 to 0, above 0.
        n_visual: Number of visual tokens N.
    """
    center = shares * (1 + width) - width / 2
    rank = (torch.arange(n_visual, device=shares.device) + 0.5) / n_visual
    ramp = ((center[..., None] - rank) / (2 * width) + 0.5).clamp(0, 1)
    return ramp * ramp * (3 - 2 * ramp)


def bounded(divergence: Array) -> Array:
    """Return D / (1 + D) of divergences in nats, which grows to 1.

    In the mean of D itself, the few samples whose answer is lost anyway outweigh all others.
    """
    return divergence / (1 + divergence)


class RelaxedDivergence:
    """The divergence of fractional counts on the samples of a search.

    Args:
        originals: The original on samples.
        samples: The calibration samples; those without visual tokens are left out.
        ranker: A nested ranker.
        memory: Bytes that the states of one pass may take.
    """

    def __init__(
        self, originals: Originals, samples: Sequence[Sample], ranker: Ranker, memory: int
    ) -> None:
        self.originals, self.ranker, self.memory = originals, ranker, memory
        self.model = model = originals.model
        self.decoder = Decoder.of(model, originals.family)
        self.samples = [sample for sample in samples if sample.n_visual]
        # Samples are independent: cores gain more from them than from parts of one small product.
        self.threads = torch.get_num_threads() if model.device.type == "cpu" else 1
        self._ranks: dict[str, Tensor] = {}

    def prepare(self) -> None:
        """Run the original on all samples in large batches, as far as they are kept."""
        with torch.inference_mode(False), reused_memory():
            most = max((self._bytes(self._layout(sample)) for sample in self.samples), default=1)
            at_once = max(1, self.memory // most)
            self.originals.keep(self.samples, self.ranker.needs, at_once)

    def __call__(
        self, shares: Shares, width: float, indices: Sequence[int]
    ) -> tuple[Values, Shares]:
        """Return the KL in nats of each sample, float64[n], and the gradient of their bounded mean.

        Args:
            shares: Share of each operation, float64[L, 3].
            width: See `gates`.
            indices: Indices of n samples.

        Raises:
            ModelError: A logit or a gradient is not finite, or the model has no gradients.
            OutOfMemoryError: The states of one sample do not fit.
        """
        divergences, total = np.zeros(len(indices)), np.zeros_like(shares)
        pending = list(self._batches([self.samples[index] for index in indices]))

        def measured(part: tuple[_Part, Reference]) -> tuple[Values, Shares] | None:
            (numbers, batch), reference = part
            try:
                return self._measured(shares, width, batch, reference)
            except torch.OutOfMemoryError:
                if len(numbers) == 1:
                    raise
                return None

        with torch.inference_mode(False), _frozen(self.model), reused_memory():
            while pending:
                # In this thread: two forwards of a model at once would mix what their hooks record.
                parts = [(part, self._reference(part[1].samples)) for part in pending]
                results, pending = one_per_core(measured, parts, self.threads), []
                for ((numbers, batch), _), found in zip(parts, results, strict=True):
                    if found is None:
                        pending += _halves(numbers, batch)
                        continue
                    divergences[numbers], gradient = found
                    total += gradient
        return divergences, total / len(indices)

    def _batches(self, samples: Sequence[Sample]) -> Iterator[_Part]:
        """Yield samples of equal visual positions, padded to the longest, as far as they fit.

        The first part is their numbers among the given ones.
        """
        groups: dict[bytes, list[tuple[int, Layout]]] = {}
        for number, sample in enumerate(samples):
            visual = self._visual(sample).nonzero()[0].tobytes()
            groups.setdefault(visual, []).append((number, self._layout(sample)))
        for group in groups.values():
            fit = self.memory // (self.threads * max(self._bytes(layout) for _, layout in group))
            most = max(1, min(fit, ceil(len(group) / self.threads)))
            for first in range(0, len(group), most):
                numbers, layouts = zip(*group[first : first + most], strict=True)
                longest = max(layouts, key=lambda layout: layout.tail)
                part = tuple(samples[number] for number in numbers)
                yield list(numbers), SampleBatch(longest, part, tuple(range(len(part))))

    def _visual(self, sample: Sample) -> NDArray[np.bool_]:
        """Return a mask of the visual tokens of a prompt."""
        family, ids = self.originals.family, sample.inputs["input_ids"]
        mask: NDArray[np.bool_] = family.visual_positions(self.model.config, ids)[0].cpu().numpy()
        return mask

    def _layout(self, sample: Sample) -> Layout:
        both_ways = self.originals.family.attends == "prompt"
        return Layout.of(self._visual(sample), self.originals.positions, both_ways)

    def _bytes(self, layout: Layout) -> int:
        """Return about the bytes that one sample's states take until the backward pass."""
        config = self.decoder.module.config
        widths = 12 * config.hidden_size + 4 * config.intermediate_size
        scores = 3 * config.num_attention_heads * layout.length
        layers: int = config.num_hidden_layers
        itemsize: int = self.model.dtype.itemsize
        total: int = layers * layout.length * (widths + scores) * itemsize
        return total

    def _measured(
        self, shares: Shares, width: float, batch: SampleBatch, reference: Reference
    ) -> tuple[Values, Shares]:
        """Return the KL of each sample of a batch, and the gradient of their bounded sum."""
        inputs = self._inputs(batch, reference)
        n_visual, device = batch.layout.n_visual, reference.embeds.device
        on_host = gates(torch.as_tensor(shares), width, n_visual)
        open_rows: Ints = (on_host > 0).sum(-1).numpy()
        given = torch.as_tensor(shares, dtype=torch.float32).to(device).requires_grad_()
        with _differentiated():
            opened = gates(given, width, n_visual)
            decoder = GatedDecoder(self.decoder.layers, inputs, opened, open_rows)
            logits = self.decoder.logits(decoder.answers()).to(device)
            check_finite(logits.detach()[:, None], batch.samples, ["a fractional policy"])
            kl = divergence(reference.logits, logits, reference.counted).kl
            (gradient,) = torch.autograd.grad(bounded(kl).sum(), given)
        found: Shares = gradient.double().cpu().numpy()
        if not np.isfinite(found).all():
            raise ModelError(
                f"the gradient of the divergence is not finite in {self.model.dtype}; use --dtype "
                "float32, or --space operations --verify 8, which needs no gradients"
            )
        return kl.detach().cpu().numpy(), found

    @torch.no_grad()
    def _inputs(self, batch: SampleBatch, reference: Reference) -> DecoderInputs:
        """Return the decoder's inputs, sorted by rank."""
        rank = concat_padded([self._ranks[sample.digest] for sample in batch.samples], value=-1)
        cos_sin = self.decoder.rotary(reference.embeds, reference.position_ids)
        return DecoderInputs.of(reference, cos_sin, rank, batch)

    @torch.no_grad()
    def _reference(self, samples: Sequence[Sample]) -> Reference:
        """Return the original on samples; rank their tokens, those of equal shape together."""
        shapes: dict[tuple[int, int], list[Sample]] = {}
        for sample in samples:
            if sample.digest not in self._ranks:
                shapes.setdefault(sample.shape, []).append(sample)
        for group in shapes.values():
            prompt = self.originals.of(group, self.ranker.needs).prompt
            ranks = self.ranker.rank(prompt, list(prompt.n_visual))
            for row, sample in enumerate(group):
                self._ranks[sample.digest] = ranks[row : row + 1]
        return self.originals.of(samples)


def _halves(numbers: list[int], batch: SampleBatch) -> list[_Part]:
    """Return two parts that take half the memory each."""
    half = len(numbers) // 2
    return [
        (numbers[:half], batch.part(0, half)),
        (numbers[half:], batch.part(half, len(numbers))),
    ]


@contextmanager
def _differentiated() -> Iterator[None]:
    """Record operations for a gradient.

    Raises:
        ModelError: An operation, often of a quantisation library, has no gradient.
    """
    try:
        with torch.enable_grad():
            yield
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, NotImplementedError) as error:
        reason = " ".join(str(error).split())
        raise ModelError(
            f"the model cannot be differentiated ({reason}); use --space operations --verify 8, "
            "which needs no gradients"
        ) from error


@contextmanager
def _frozen(model: Any) -> Iterator[None]:
    """Keep autograd from storing what only gradients of the weights need."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in trained:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trained:
            parameter.requires_grad_()
