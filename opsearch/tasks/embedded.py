"""The tasks of the demo model: fifteen families of questions about generated pictures."""

from opsearch.demo import families, generator
from opsearch.errors import DataError
from opsearch.tasks.item import Item

SPLITS = generator.SPLITS
FAMILIES: tuple[str, ...] = tuple(families.FAMILIES)


def embedded(split: str, count: int, seed: int = 0) -> list[Item]:
    """Return the first `count` items of a split (train, calibration, held-out or test).

    Equal arguments give equal items; a larger count only appends. The families take turns. No
    picture and no handwritten digit of one split appears in another.

    Raises DataError when the split is unknown, count is below 1 or seed is negative.
    """
    if split not in SPLITS:
        raise DataError(
            f"the embedded tasks have no split {split!r}; choose one of {', '.join(SPLITS)}."
        )
    if count < 1:
        raise DataError(f"{count} embedded items were asked for; ask for at least 1.")
    if seed < 0:
        raise DataError(f"the embedded tasks have no seed {seed}; use 0 or a larger number.")
    return [_item(split, seed, index) for index in range(count)]


def _item(split: str, seed: int, index: int) -> Item:
    from PIL import Image  # only here, as in Item

    example = generator.item(split, seed, index)
    return Item(
        id=f"embedded/{split}/{seed}/{index}",
        question=example.question,
        answers=(example.answer,),
        images=(Image.fromarray(example.pixels),),
        family=example.family,
    )
