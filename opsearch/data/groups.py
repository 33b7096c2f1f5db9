"""Groups of samples: those that share a picture or a `group`, directly or by way of others."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from opsearch.data.item import Item

_SEEN = "seen"  # a link of all that is seen; other links begin with their kind


class Groups:
    """Groups of links, by union-find; links that were never joined are alone."""

    def __init__(self) -> None:
        self._parents: dict[str, str] = {}

    def join(self, links: Iterable[str]) -> None:
        """Put these links into one group, with all that they were joined with before."""
        first, *others = map(self.of, links)
        for other in others:
            self._parents[self.of(other)] = self.of(first)

    def of(self, link: str) -> str:
        """Return the group of a link, which is one of its links."""
        path = []
        while (parent := self._parents.get(link, link)) != link:
            path.append(link)
            link = parent
        self._parents.update(dict.fromkeys(path, link))
        return link


def item_links(item: Item, *same: Item) -> tuple[str, ...]:
    """Return what joins an item with others: its pictures, and its `group` if it has one.

    An item without pictures is joined with those that have the same question.

    Args:
        item: The item.
        same: Items with the same question and the same images, of which only the groups are read.
    """
    groups = (each.group for each in (item, *same) if each.group is not None)
    shown = tuple(map(_picture, item.picture_digests)) or (_item(item.digest()),)
    return tuple(dict.fromkeys((*shown, *map(_group, groups))))


@dataclass(frozen=True)
class Seen:
    """The calibration samples of a search, as later evaluations recognise them.

    Attributes:
        items: Digest of each sample.
        pictures: Digests of their pictures.
        groups: Their groups.
    """

    items: tuple[str, ...] = ()
    pictures: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()

    @classmethod
    def of(cls, items: Sequence[Item]) -> Seen:
        """Return what a search on these items sees."""
        return cls(
            tuple(dict.fromkeys(item.digest() for item in items)),
            tuple(dict.fromkeys(digest for item in items for digest in item.picture_digests)),
            tuple(dict.fromkeys(item.group for item in items if item.group is not None)),
        )

    @property
    def links(self) -> tuple[str, ...]:
        """Links of these samples, by which other items join them."""
        return (
            *map(_item, self.items),
            *map(_picture, self.pictures),
            *map(_group, self.groups),
        )


class Unseen:
    """Tells apart rows that share nothing with what was seen, also not by way of other rows.

    Args:
        seen: The links of what was seen.
    """

    def __init__(self, seen: Iterable[str]) -> None:
        self._groups = Groups()
        self._groups.join([_SEEN, *seen])

    def add(self, links: Iterable[str]) -> None:
        """Note the links of a row, which may join groups."""
        self._groups.join(links)

    def holds(self, links: Sequence[str]) -> bool:
        """Return whether a row with these links is unseen, as far as rows were added."""
        return self._groups.of(links[0]) != self._groups.of(_SEEN)


def unseen_rows(links: Sequence[Sequence[str]], seen: Seen) -> list[bool]:
    """Return for the links of each row whether it shares nothing with what was seen."""
    unseen = Unseen(seen.links)
    for each in links:
        unseen.add(each)
    return [unseen.holds(each) for each in links]


def _picture(digest: str) -> str:
    return f"picture {digest}"


def _group(name: str) -> str:
    return f"group {name}"


def _item(digest: str) -> str:
    return f"item {digest}"
