"""Tasks of the demo model: fifteen families of questions about generated images."""

from opsearch.data.demo import families, generator
from opsearch.data.item import Item
from opsearch.errors import DataError, echo

SPLITS = generator.SPLITS
FAMILIES: tuple[str, ...] = tuple(families.FAMILIES)


def embedded(split: str, count: int, seed: int = 0) -> list[Item]:
    """Return the first `count` items of a split.

    Equal arguments give equal items, and a larger count only appends items. The families alternate.
    No image and no handwritten digit of one split occurs in another.

    Args:
        split: "train", "calibration", "held-out" or "test".
        count: Number of items, at least 1.
        seed: Seed of the generator, at least 0.

    Raises:
        DataError: An argument is out of range.
    """
    if split not in SPLITS:
        raise DataError(
            f"the embedded tasks have no split {echo(split)}; choose one of {', '.join(SPLITS)}"
        )
    if count < 1:
        raise DataError(f"{count} embedded samples were requested; request at least 1")
    if seed < 0:
        raise DataError(f"the embedded tasks have no seed {seed}; use a seed of at least 0")
    return [_item(split, seed, index) for index in range(count)]


def _item(split: str, seed: int, index: int) -> Item:
    from PIL import Image  # imported lazily, as in Item

    example = generator.item(split, seed, index)
    return Item(
        id=f"embedded/{split}/{seed}/{index}",
        question=example.question,
        answers=(example.answer,),
        images=(Image.fromarray(example.pixels),),
        family=example.family,
    )
