"""Random padded batches for rankers: samples of several tiles, exact cosines, many ties."""

from dataclasses import dataclass

import torch
from torch import Tensor

from opsearch.rankers.base import Prompt

WIDTH = 16  # of vectors of +-1: length 4, cosines are exact multiples of 1/8


@dataclass
class TokenSample:
    """Visual tokens of one sample: tiles, scores with many ties, vectors, and video frames."""

    tile: Tensor
    scores: Tensor
    features: Tensor
    embeds: Tensor
    words: Tensor
    step: Tensor

    def of_tile(self, tile):
        """Return the sample's tokens in one tile."""
        return (self.tile == tile).nonzero().flatten().tolist()


def sample(sizes, seed, exact=True, words=3):
    """Return a random sample with `sizes` tokens per tile, mixed as in LLaVA-NeXT."""
    generator = torch.Generator().manual_seed(seed)
    n = sum(sizes)

    def vectors(count):
        drawn = torch.randn(count, WIDTH, generator=generator)
        return torch.where(drawn > 0, 1.0, -1.0) if exact else drawn

    tile = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes, dtype=torch.int64))
    scores = torch.randint(0, 5, (n,), generator=generator).float()
    return TokenSample(
        tile[torch.randperm(n, generator=generator)],
        scores if exact else torch.rand(n, generator=generator),
        vectors(n),
        vectors(n),
        vectors(words),
        frame_steps(n, int(torch.randint(1, n + 2, (), generator=generator))),
    )


def frame_steps(n, size):
    """Return distances to the preceding frame: whole frames of `size` tokens, then an image."""
    step = torch.zeros(n, dtype=torch.int64)
    step[size : max(size, n // size * size)] = size
    return step


def prompt(samples, pad=0, dtype=torch.float32, device="cpu"):
    """Return a batch for a ranker: text, image, text, and `pad` more positions than needed."""
    rows = [len(s.tile) + len(s.words) + 1 for s in samples]
    length = max(rows) + pad
    visual = torch.zeros(len(samples), length, dtype=torch.bool)
    real, embeds = visual.clone(), torch.randn(len(samples), length, WIDTH)
    for b, (s, row) in enumerate(zip(samples, rows, strict=True)):
        start = length - row
        end = start + 1 + len(s.tile)
        real[b, start:] = True
        visual[b, start + 1 : end] = True
        embeds[b, start + 1 : end], embeds[b, end:] = s.embeds, s.words
    first = 10 * torch.arange(len(samples))  # tiles are numbered through the batch
    captured = {
        "cls_attention": torch.cat([s.scores for s in samples]).to(device),
        "vision_features": torch.cat([s.features for s in samples]).to(device, dtype),
        "received_attention:0.5": torch.cat([s.scores for s in samples]).to(device),
        "previous_frame": torch.cat([s.step for s in samples]),
        "tiles": torch.cat([s.tile + k for s, k in zip(samples, first, strict=True)]),
    }
    n_visual = tuple(len(s.tile) for s in samples)
    where = visual.to(device), real.to(device)
    return Prompt(*where, n_visual, captured, embeds.to(device, dtype))


def chosen(places, prompt, b, n):
    """Return the n best visual tokens of a sample in their order."""
    own = places[b, prompt.visual[b]].tolist()
    return sorted((i for i, place in enumerate(own) if place < n), key=own.__getitem__)
