"""Random tables of questions about few pictures, in memory or as files."""

from dataclasses import dataclass
from pathlib import Path

from hypothesis import strategies as st
from PIL import Image

from opsearch.data.item import Item

PICTURES = 6
TYPES = ("png", "bmp", "tiff")


@dataclass(frozen=True)
class Line:
    """One row: numbers of its pictures, its question, answer, group, and type of its files."""

    pictures: tuple[int, ...]
    question: str
    answer: str
    group: str | None
    file_type: str


def lines(max_size=25):
    """Tables of few pictures, of which some rows show none or two."""
    shown = st.lists(st.integers(0, PICTURES - 1), max_size=2, unique=True).map(tuple)
    row = st.builds(
        Line,
        pictures=shown,
        question=st.sampled_from(["what?", "who?", "Who?", "where?"]),
        answer=st.sampled_from(["a", "b"]),
        group=st.sampled_from([None, None, None, "g", "h"]),
        file_type=st.sampled_from(TYPES),
    )
    return st.lists(row, min_size=1, max_size=max_size)


def write_pictures(folder: Path) -> Path:
    """Write every picture as a file of each type."""
    for number in range(PICTURES):
        image = Image.new("RGB", (2, 2), (40 * number, 7, 99))
        for file_type in TYPES:
            image.save(folder / f"{number}.{file_type}")
    return folder


def items(table: list[Line], folder: Path) -> list[Item]:
    """Return the rows of a table as items whose pictures are files in the folder."""
    return [
        Item(
            id=f"{number}",
            question=line.question,
            answers=(line.answer,),
            images=tuple(folder / f"{n}.{line.file_type}" for n in line.pictures),
            group=line.group,
        )
        for number, line in enumerate(table)
    ]


def components(table: list[Line]) -> list[set[int]]:
    """Return the rows that share pictures or groups, directly or by others, by plain search."""

    def content(line):
        shown = {("picture", n) for n in line.pictures} or {("question", line.question)}
        return shown | ({("group", line.group)} if line.group else set())

    left = [({number}, content(line)) for number, line in enumerate(table)]
    found = []
    while left:
        rows, contents = left.pop()
        while touching := [each for each in left if each[1] & contents]:
            left = [each for each in left if each not in touching]
            for more, others in touching:
                rows, contents = rows | more, contents | others
        found.append(rows)
    return found
