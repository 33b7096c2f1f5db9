"""Prompts with images of several sizes, padded or extended to equal length."""

from itertools import chain, count

import torch

from tests.support.tiny import IMAGE, VOCAB, padded


def prompts(family, layout, seed=0, pad="left"):
    """Return a batch; `layout` lists for each sample the lengths of text around its images.

    [3, 4] is 3 text tokens, an image, 4 text tokens; [5] has no image; [2, 0, 6] has two images.
    pad: left, right, or none, where the last text is extended instead.
    """
    generator = torch.Generator().manual_seed(seed)
    pictures = count(seed)
    sizes = [family.SIZES[next(pictures) % len(family.SIZES)] for runs in layout for _ in runs[1:]]
    samples = [[sizes.pop(0) for _ in runs[1:]] for runs in layout]
    rows, (before, behind) = [], family.AROUND
    for runs, sizes in zip(layout, samples, strict=True):
        row = text(runs[0], generator)
        for length, size in zip(runs[1:], sizes, strict=True):
            visual = [IMAGE] * family.tokens(size, alone=len(sizes) == 1)
            row += [*before, *visual, *behind, *text(length, generator)]
        rows.append(row)
    if pad == "none":
        longest = max(map(len, rows))
        rows = [row + text(longest - len(row), generator) for row in rows]
    inputs = padded(rows, pad)
    return inputs | family.pixels(samples, inputs["input_ids"], generator)


def video_prompts(family, layout, picture=False, seed=0, pad="left"):
    """Return a batch; `layout` lists for each sample the lengths of text around its videos.

    picture: each sample also has an image, before its first text.
    """
    generator = torch.Generator().manual_seed(seed)
    sizes, rows, (before, behind) = family.SIZES[: int(picture)], [], family.AROUND
    for runs in layout:
        images = [[*before, *[IMAGE] * family.tokens(size, alone=True), *behind] for size in sizes]
        first, *later = (text(length, generator) for length in runs)
        rows.append([*chain(*images), *first, *chain(*([*family.VIDEO, *run] for run in later))])
    inputs = padded(rows, pad)
    inputs |= family.pixels([sizes] * len(layout), inputs["input_ids"], generator)
    videos = sum(len(runs) - 1 for runs in layout)
    return inputs | family.video_pixels(videos, inputs["input_ids"], generator)


def text(length, generator):
    """Return random tokens that are neither special nor visual."""
    return torch.randint(6, VOCAB, (length,), generator=generator).tolist()


def text_positions(inputs):
    """Return positions 0, 1, 2, ... of each sample without its padding."""
    return [torch.arange(int(length)) for length in inputs["attention_mask"].sum(1)]


def from_mask(inputs):
    """Return the same positions for padded prompts, as generate() derives them."""
    return {"position_ids": (inputs["attention_mask"].cumsum(1) - 1).clamp(min=0)}


def hidden_states(tower, pixels, layer):
    """Return the output of a layer of the tower for the patches, [images, P, D]."""
    return tower(pixels, output_hidden_states=True).hidden_states[layer][:, 1:]


def received_by_patches(tower, pixels, layer, hidden=1, **given):
    """Return the attention that patches receive, summed over queries, mean over heads, [images, P].

    hidden: First entries that are no visual token, e.g. [CLS].
    given: Further arguments of the tower.
    """
    before = tower.config._attn_implementation
    tower.set_attn_implementation("eager")
    attention = tower(pixels, output_attentions=True, **given).attentions[layer]
    tower.set_attn_implementation(before)
    return attention.mean(1).sum(1)[:, hidden:]


def cls_attention(tower, pixels, layer):
    """Return [CLS]'s attention to the patches in one layer, mean over heads, [images, P]."""
    before = tower.config._attn_implementation
    tower.set_attn_implementation("eager")
    attention = tower(pixels, output_attentions=True).attentions[layer]
    tower.set_attn_implementation(before)
    return attention.mean(1)[:, 0, 1:]
