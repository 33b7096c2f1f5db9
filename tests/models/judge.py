"""Comparison of a pruned model with the reference, sample by sample."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from tests.rankers import literal
from tests.support import reference
from tests.support.families import FAMILIES

TOLERANCE = 1e-5


@dataclass
class UnpaddedSample:
    """One sample of a batch without its padding.

    Attributes:
        real: Its positions in the padded batch.
        ids: Its token ids.
        embeds: Its embeddings, image features included.
        visual: Its visual tokens.
        scores: [CLS]'s attention to the visual tokens.
        tile: The tile of each visual token.
        features: The projector's input for each visual token.
        received: Attention that the visual tokens receive in the middle of the tower.
        positions: Its rotary positions, [S] or [3, S].
        added: By decoder layer, what it adds to the visual tokens.
    """

    real: Tensor
    ids: Tensor
    embeds: Tensor
    visual: Tensor
    scores: Tensor
    tile: Tensor
    features: Tensor
    received: Tensor
    positions: Tensor
    added: list[Tensor]

    @property
    def n_visual(self):
        return int(self.visual.sum())


def samples(model, inputs):
    """Return the samples of a batch as the reference takes them."""
    family = FAMILIES[model.config.model_type]
    features, *added = reference.visual_features(model, inputs)
    shown = len(features) and "pixel_values_videos" not in inputs
    with torch.no_grad():
        scores = family.scores(model, inputs) if len(features) else None
        tile, read = (family.features(model, inputs) if shown else None) or (None, None)
        received = family.received(model, inputs) if shown else None
    all_positions = family.positions(inputs)
    rows, start = [], 0
    for row, where in enumerate(inputs["attention_mask"].bool()):
        ids = inputs["input_ids"][row, where]
        end = start + int(reference.is_visual(model, ids).sum())
        embeds, visual = reference.embed(model, ids, features[start:end])
        values = scores, tile, read, received
        own = [torch.zeros(0) if v is None else v[start:end] for v in values]
        own += [all_positions[row], [layer[start:end] for layer in added]]
        rows.append(UnpaddedSample(where, ids, embeds, visual, *own))
        start = end
    return rows


def rank(sample, policy):
    """Return the reference's ranking of a sample by the policy's ranker."""
    specs = [spec for _, spec in policy.rankers if spec.name in SCORES]
    if not specs:
        return reference.rank_by(torch.zeros(sample.n_visual), sample.visual)
    (spec,) = specs
    return reference.rank_by(SCORES[spec.name](sample, policy, dict(spec.params)), sample.visual)


def _evenly(sample, policy, params):
    n, kept = sample.n_visual, _kept(sample, policy)
    scores = torch.zeros(n)
    for i in range(kept):
        scores[int((i + 0.5) * n / kept)] = 1.0
    return scores


def _drawn(sample, policy, params):
    drawn = np.random.PCG64([params.get("seed", 0), sample.n_visual]).random_raw(sample.n_visual)
    return [int(number) for number in drawn]


def _in_order(order, n):
    """Return scores that rank tokens as listed, and all others last."""
    places = {token: place for place, token in enumerate(order)}
    return [-places.get(token, n) for token in range(n)]


def _kept(sample, policy):
    n = sample.n_visual
    return max((int(c) for c in policy.resolve(n).flatten() if c < n), default=0)


def _max_min(sample, policy, params):
    vectors = sample.embeds[sample.visual].tolist()
    return _in_order(literal.max_min(vectors, len(vectors)), len(vectors))


def _by_tile(choose):
    """Return scores of the tokens that a method chooses in each tile."""

    def scores(sample, policy, params):
        tiles = [(sample.tile == t).nonzero().flatten().tolist() for t in sample.tile.unique()]
        shares = literal.shares([len(own) for own in tiles], _kept(sample, policy))
        chosen = [
            own[i]
            for own, kept in zip(tiles, shares, strict=True)
            for i in choose(sample.scores[own].tolist(), sample.features[own].tolist(), kept)
        ]
        return _in_order(chosen, sample.n_visual)

    return scores


def _covering(sample, policy, params):
    if not _kept(sample, policy):
        return [0.0] * sample.n_visual
    words = sample.embeds[_words(sample)].tolist()
    features, embeds = sample.features.tolist(), sample.embeds[sample.visual].tolist()
    order = literal.greedily(
        lambda chosen: literal.coverage(features, embeds, words, chosen), _kept(sample, policy)
    )
    return _in_order(order, sample.n_visual)


def _transported(sample, policy, params):
    vectors = sample.embeds[sample.visual].tolist()
    order = literal.greedily(
        lambda chosen: literal.transported(vectors, chosen), _kept(sample, policy)
    )
    return _in_order(order, sample.n_visual)


def _of_images(sample, policy, params):
    vectors = sample.embeds[sample.visual].tolist()
    return _in_order(literal.evs(vectors, [0] * len(vectors)), len(vectors))


SCORES = {
    "evs": _of_images,
    "mmtok": _covering,
    "otprune": _transported,
    "received": lambda sample, policy, params: sample.received,
    "cls": lambda sample, policy, params: sample.scores,
    "divprune": _max_min,
    "visionzip": _by_tile(lambda scores, features, n: literal.by_score(scores)[:n]),
    "vispruner": _by_tile(literal.vispruner),
    "uniform": _evenly,
    "random": _drawn,
}


def inside(sample, policy):
    """Return the policy's rankers inside the decoder, as the reference takes them."""
    return {
        layer: INSIDE[spec.name](sample, **dict(spec.params))
        for layer, spec in policy.rankers
        if spec.name not in SCORES
    }


def _words(sample):
    """Return the positions of the text after the last visual token."""
    last = int(sample.visual.nonzero()[-1])
    return list(range(last + 1, len(sample.ids)))


def _by_last_row(back):
    def made(sample):
        last = len(sample.ids) - 1
        return back, lambda weights, tokens: literal.of_last_row(weights, tokens, last)

    return made


def _by_raters(sample, heads=1):
    def scores(weights, tokens):
        visual = sample.visual.nonzero().flatten().tolist()
        rating = literal.raters(sample.embeds.tolist(), visual, _words(sample))
        return literal.sparsevlm(weights, tokens, rating, heads)

    return 1, scores


def _by_masses(sample):
    return 0, lambda weights, tokens: literal.fitprune(weights, tokens, _words(sample))


INSIDE = {
    "fastv": _by_last_row(1),
    "fitprune": _by_masses,
    "pyramiddrop": _by_last_row(0),
    "sparsevlm": _by_raters,
}


def reference_logits(model, sample, policy):
    """Return the logits [S, V] of one sample under a policy, by the masked model."""
    counts = policy.resolve(sample.n_visual).tolist()
    ranks = rank(sample, policy)
    rankers = inside(sample, policy)
    start = sample.embeds, ranks, counts, sample.positions, rankers
    return reference.masked_forward(model, *start, added=sample.added)


def deviation(model, inputs, policy, rows=None, keep=(0,), **given):
    """Return the largest difference of a token's logits, relative to max(1, the logits' std).

    Args:
        model: The model.
        inputs: A batch.
        policy: The policy.
        rows: Its samples, if known.
        keep: Values of `logits_to_keep`, each compared: 0 for all rows; fewer operations are
            executed for last rows without visual tokens.
        given: Further arguments of the forward.
    """
    with policy.apply(model):
        found = [model(**inputs, **given, logits_to_keep=last).logits for last in keep]
    worst = 0.0
    for row, sample in enumerate(rows or samples(model, inputs)):
        wanted = reference_logits(model, sample, policy)
        places, length = sample.real.nonzero().flatten(), len(sample.real)
        for logits, last in zip(found, keep, strict=True):
            kept = places >= length - (last or length)
            difference = logits[row][sample.real[-last:]] - wanted[kept]
            assert difference.isfinite().all(), "max() would pass over nan"
            largest = difference.abs().amax() if len(difference) else 0.0
            worst = max(worst, float(largest / wanted.std().clamp(min=1)))
    return worst


def last_text_rows(model, inputs):
    """Return the number of last rows of a batch that hold no visual token of any sample."""
    visual = reference.is_visual(model, inputs["input_ids"]).any(0)
    return visual.shape[0] - int(visual.nonzero().max()) - 1 if visual.any() else len(visual)
