"""Errors for items that a processor cannot encode: which picture, or else the prompt."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from opsearch.data.item import Item
from opsearch.data.pictures import Picture
from opsearch.errors import PATH, DataError, shortened
from opsearch.formatting import counted

_LONG = 20  # sides of a picture, longer to shorter, that are named as the likely reason


def refusal(
    item: Item, pictures: Sequence[Picture], error: Exception, encode: Callable[[list[Any]], object]
) -> DataError:
    """Return the error of an item: a picture that is refused, all of them together, or the prompt.

    Args:
        item: The item.
        pictures: Its pictures.
        error: What the processor raised.
        encode: Encodes images with a plain question, to find the cause.
    """
    for picture in pictures:
        if alone := _failure(encode, [picture.image]):
            return DataError(_refused(item, picture, alone, encode))
    images = [picture.image for picture in pictures]
    if images and (together := _failure(encode, images)):
        return DataError(
            f"item {shortened(item.id, PATH)}: the model's processor takes each of its "
            f"{len(images)} images alone, but not together ({_reason(together)}); use fewer "
            "images, or images of one size"
        )
    return DataError(
        f"item {shortened(item.id, PATH)}: its prompt cannot be encoded with "
        f"{counted(len(pictures), 'image')} ({_reason(error)}); take image placeholders out of the "
        "question"
    )


def _refused(
    item: Item, picture: Picture, error: Exception, encode: Callable[[list[Any]], object]
) -> str:
    image = picture.image
    width, height = image.size
    remedy = "enlarge, shrink or crop it"
    if max(width, height) > _LONG * min(width, height):
        remedy = (
            f"crop or split it, its sides are {max(width, height) / min(width, height):.4g} to 1"
        )
    if image.mode != "RGB" and not _failure(encode, [picture.rgb()]):
        remedy = "save it in RGB"
    return (
        f"item {shortened(item.id, PATH)}: the model's processor refuses the image {picture.name} "
        f"of {width} x {height} pixels and mode {image.mode} ({_reason(error)}); {remedy}, or "
        "leave the item out"
    )


def _failure(encode: Callable[[list[Any]], object], images: list[Any]) -> Exception | None:
    try:
        encode(images)
    except Exception as error:  # of any kind, as processors check little
        return error
    return None


def _reason(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
