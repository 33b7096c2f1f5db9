"""Squares of patches of a tile, each a visual token, in plain loops."""

import math

import torch


def means(tiles, size):
    """Return the mean value of the patches of each square; tiles: [tiles, P]."""
    return torch.tensor([float(square.mean()) for square in each_square(tiles, size)])


def joined(tiles, size):
    """Return the tile of each square, and the features of its patches; tiles: [tiles, P, D]."""
    return numbers(tiles, size), torch.stack([each.flatten() for each in each_square(tiles, size)])


def averaged(tiles, size):
    """Return the tile of each square, and the mean of its patches; tiles: [tiles, P, D]."""
    squares = [square.flatten(0, 1).mean(0) for square in each_square(tiles, size)]
    return numbers(tiles, size), torch.stack(squares)


def numbers(tiles, size):
    """Return the tile of each square."""
    return torch.arange(len(tiles)).repeat_interleave(tiles.shape[1] // size**2)


def each_square(tiles, size):
    """Yield the squares of all tiles by rows, [size, size] or [size, size, D]."""
    side = math.isqrt(tiles.shape[1])
    for tile in tiles.unflatten(1, (side, side)):
        for y in range(0, side, size):
            for x in range(0, side, size):
                yield tile[y : y + size, x : x + size]
