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
    return None
