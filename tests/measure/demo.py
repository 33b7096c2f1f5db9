"""The embedded model, samples of its tasks, and their reference divergences."""

import copy
from functools import cache

import torch

from opsearch.data.embedded import embedded
from opsearch.data.item import Item
from opsearch.models.encoding import encode
from opsearch.models.loading import load_config, load_processor, load_weights
from tests.models import judge
from tests.support import reference

# Several threads are slower on matrices this small.
torch.set_num_threads(1)

LAYERS = 12
EOS = 2
TOLERANCE = 5e-6


@cache
@torch.inference_mode(mode=False)  # whoever asks first: others take gradients
def model():
    return load_weights("demo")


@cache
@torch.inference_mode(mode=False)
def judging_model():
    """Return the model in float64, so that a reference adds no rounding of its own."""
    return copy.deepcopy(model()).double()


@cache
def samples(count, split="calibration", seed=0):
    """Return the first samples of a split: 100 visual tokens, texts of several lengths."""
    return encode(embedded(split, count, seed), load_processor("demo"), load_config("demo"))


@cache
def two_pictures(count=1):
    """Return samples of two images, with 200 visual tokens."""
    items = embedded("calibration", 2 * count, seed=1)
    pairs = zip(items[::2], items[1::2], strict=True)
    items = [Item(a.id, a.question, a.answers, a.images + b.images) for a, b in pairs]
    return encode(items, load_processor("demo"), load_config("demo"))


@torch.no_grad()
def reference_kl(sample, policy, positions=1):
    """Return the KL of a policy by the masked model, mean over the original's own answer."""
    whole = judging_model()
    exact = {k: v.double() if v.is_floating_point() else v for k, v in sample.inputs.items()}
    (row,) = judge.samples(whole, exact)
    embeds = row.embeds
    counts = policy.resolve(row.n_visual).tolist()
    full = [[row.n_visual] * 3] * LAYERS
    rank = judge.rank(row, policy)
    tokens, _ = reference.greedy(whole, embeds, rank, full, row.positions, positions)
    answer = tokens[: tokens.index(EOS) + 1] if EOS in tokens else tokens
    forced = torch.tensor(answer[:-1], dtype=torch.long)
    embeds = torch.cat([embeds, whole.model.language_model.embed_tokens(forced)])
    rank = torch.cat([rank, torch.full((len(forced),), reference.TEXT)])
    places = torch.arange(len(rank))
    rankers = judge.inside(row, policy)
    both = [
        reference.masked_forward(whole, embeds, rank, full, places),
        reference.masked_forward(whole, embeds, rank, counts, places, rankers),
    ]
    p, q = (torch.log_softmax(logits[-len(answer) :].double(), -1) for logits in both)
    return float((p.exp() * (p - q)).sum(-1).mean())
