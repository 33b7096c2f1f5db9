"""Images and videos as grids of patches, 2 x 2 patches per token, as Qwen-VL and GLM-V take them.

Visual tokens have positions in time, height and width.
"""

from itertools import chain

import torch

from tests.support import tiny

# Time, height and width in patches; two sizes have the same number of tokens.
SIZES = [(1, 4, 6), (1, 4, 4), (1, 6, 4), (1, 2, 10)]
VIDEO_SIZE = (2, 4, 6)
START, END = 6, 7
AROUND = ((START,), (END,))  # without them the model reads two adjacent images as one
MERGED, PATCH = 2, 4
FRAME = 6  # visual tokens
VIDEO = (START, *[tiny.VIDEO] * 2 * FRAME, END)


def tokens(size, alone):
    time, height, width = size
    return time * height * width // MERGED**2


def pixels(samples, ids, generator):
    types = {"mm_token_type_ids": (ids == tiny.IMAGE).int() + 2 * (ids == tiny.VIDEO).int()}
    if not any(samples):
        return types
    grids = list(chain(*samples))
    return {**types, "pixel_values": patches(grids, generator), "image_grid_thw": rows(grids)}


def video_pixels(number, ids, generator):
    grids = [VIDEO_SIZE] * number
    return {"pixel_values_videos": patches(grids, generator), "video_grid_thw": rows(grids)}


def patches(grids, generator):
    """Return the values of all patches, [P, 3 x 2 x 4 x 4]; a patch has two points in time."""
    return torch.randn(int(rows(grids).prod(1).sum()), 3 * 2 * PATCH**2, generator=generator)


def rows(grids):
    return torch.tensor(grids)


def positions(inputs, pace=1):
    """Return each sample's positions where a video has one run of tokens.

    pace: steps in time from frame to frame.
    """
    return found_positions(inputs, inputs.get("video_grid_thw", torch.zeros(0)).tolist(), pace)


def positions_of_frames(inputs):
    """Return each sample's positions where each frame of a video has a run of tokens."""
    videos = inputs.get("video_grid_thw", torch.zeros(0)).tolist()
    frames = [(1, height, width) for time, height, width in videos for _ in range(time)]
    return found_positions(inputs, frames)


def found_positions(inputs, videos, pace=1):
    """Return positions [3, S] of each sample without its padding."""
    images = inputs.get("image_grid_thw", torch.zeros(0)).tolist()
    grids = {1: iter(images), 2: iter(videos)}
    samples = zip(inputs["mm_token_type_ids"], inputs["attention_mask"].bool(), strict=True)
    return [one_sample(types[real].tolist(), grids, pace) for types, real in samples]


def one_sample(types, grids, pace):
    """Return positions [3, S]; text resumes behind the longer side of an image."""
    found, place, start = [], 0, 0
    while place < len(types):
        if types[place] not in grids:
            found.append([start] * 3)
            place, start = place + 1, start + 1
            continue
        time, height, width = next(grids[types[place]])
        height, width = height // MERGED, width // MERGED
        steps = pace if types[place] == 2 else 1
        found += [
            [start + steps * t, start + y, start + x]
            for t in range(time)
            for y in range(height)
            for x in range(width)
        ]
        place, start = place + time * height * width, start + max(height, width)
    return torch.tensor(found).T


def given_positions(inputs):
    """Return nothing: the model computes positions from mm_token_type_ids."""
    return {}


def scores(model, inputs):
    return None


def features(model, inputs):
    """Return the frame and the merger's input of all visual tokens."""
    ((states,), _) = _inputs_of(model.model.visual.merger, model, inputs)
    grids = inputs["image_grid_thw"].tolist()
    sizes = [height * width // MERGED**2 for time, height, width in grids for _ in range(time)]
    frame = [number for number, size in enumerate(sizes) for _ in range(size)]
    # GLM-4V's merger reads one row per token, Qwen's one per patch.
    return torch.tensor(frame), states.reshape(len(frame), -1)


def received(model, inputs):
    """Return the attention within each image in the middle layer."""
    return received_in_layer(model, inputs, (len(model.model.visual.blocks) + 1) // 2 - 1)


def received_in_layer(model, inputs, layer):
    """Return the attention to each token within its frame, the mean of its patches."""
    attn = model.model.visual.blocks[layer].attn
    (states,), given = _inputs_of(attn, model, inputs)
    cos, sin = given["position_embeddings"]
    q, k, _ = attn.qkv(states).unflatten(-1, (3, attn.num_heads, -1)).unbind(1)
    q, k = (x * cos[:, None] + _turned(x) * sin[:, None] for x in (q, k))
    found, start = [], 0
    for time, height, width in inputs["image_grid_thw"].tolist():
        for _ in range(time):
            own = slice(start, start + height * width)
            logits = q[own].transpose(0, 1) @ k[own].permute(1, 2, 0) / q.shape[-1] ** 0.5
            found.append(logits.softmax(-1).mean(0).sum(0))
            start += height * width
    return torch.cat(found).unflatten(0, (-1, MERGED**2)).mean(1)


def _turned(x):
    low, high = x.chunk(2, -1)
    return torch.cat([-high, low], -1)


def _inputs_of(module, model, inputs):
    """Return the arguments of a module in a forward of the vision tower."""
    given = []
    hook = module.register_forward_pre_hook(
        lambda module, args, kwargs: given.append((args, kwargs)), with_kwargs=True
    )
    model.model.visual(inputs["pixel_values"], grid_thw=inputs["image_grid_thw"])
    hook.remove()
    return given[0]
