"""Parts of a data set: disjoint in pictures and groups, as full as can be, read lazily."""

import random
from dataclasses import replace
from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from opsearch.data.groups import Seen
from opsearch.data.item import Item
from opsearch.data.rows import Rows, bundled
from opsearch.data.split import balanced, split, take_unseen
from tests.data.tables import components, items, lines, write_pictures

COUNTS = st.integers(1, 12), st.integers(0, 12)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_pictures(tmp_path_factory.mktemp("pictures"))


def numbers(rows, digests):
    """Return the numbers of the rows that make these samples."""
    return {int(item.id) for digest in digests for item in rows.items(digest)}


@settings(max_examples=60)
@given(lines(), *COUNTS)
def test_no_group_is_in_both_parts(folder, table, samples, heldout):
    rows = Rows(bundled(items(table, folder)))
    parts = split(rows, samples, heldout)
    read = sorted(numbers(rows, rows.digests))
    first, second = (numbers(rows, digests) for digests in (parts.calibration, parts.heldout))
    for component in components([table[number] for number in read]):
        whole = {read[position] for position in component}
        assert not (whole & first and whole & second)
    assert len(set(parts.calibration)) == len(parts.calibration) <= samples
    assert len(set(parts.heldout)) == len(parts.heldout) <= heldout


@settings(max_examples=60)
@given(lines(), *COUNTS)
def test_both_parts_are_full_if_groups_allow_it(folder, table, samples, heldout):
    rows = Rows(bundled(items(table, folder)))
    parts = split(rows, samples, heldout)
    everything = Rows(bundled(items(table, folder)))
    digest_of = {int(i.id): d.digest for d in everything for i in everything.items(d.digest)}
    sizes = [len({digest_of[row] for row in rows}) for rows in components(table)]
    sums = {sum(chosen) for count in range(len(sizes) + 1) for chosen in combinations(sizes, count)}
    if any(chosen >= samples and sum(sizes) - chosen >= heldout for chosen in sums):
        assert (len(parts.calibration), len(parts.heldout)) == (samples, heldout)
    elif len(sizes) > 1:
        assert parts.calibration
        assert parts.heldout or not heldout or len(set(digest_of.values())) <= samples


@settings(max_examples=40)
@given(lines(), *COUNTS, st.randoms(use_true_random=False))
def test_neither_answers_nor_file_types_matter(folder, table, samples, heldout, random):
    other = [
        replace(line, answer=random.choice("abc"), file_type=random.choice(["png", "bmp"]))
        for line in table
    ]
    found = [
        split(Rows(bundled(items(each, folder))), samples, heldout)
        for each in (table, table, other)
    ]
    assert found[0] == found[1] == found[2]


@given(st.integers(1, 30), st.integers(1, 12), st.integers(0, 12))
def test_without_repeated_pictures_the_first_rows_are_taken_and_no_other_is_read(
    size, samples, heldout
):
    every = [Item(f"{n}", f"{n}?", (), (Image.new("RGB", (1, 1), (n, 0, 0)),)) for n in range(size)]
    shuffled = random.Random(3).sample(every, size)
    rows = Rows(bundled(every, shuffled))
    parts = split(rows, samples, heldout)
    taken = [rows.sample(digest).id for digest in parts.calibration + parts.heldout]
    assert taken == [item.id for item in shuffled[: samples + heldout]]
    assert len(parts.calibration) == min(samples, size)
    assert rows.count == len(taken)


def test_a_later_row_joins_an_earlier_one_with_what_was_seen(folder):
    """The second row shares nothing with the first one but by way of the third."""
    images = [folder / f"{n}.png" for n in range(4)]
    shown = [images[:1], images[1:2], images[:2], images[2:3], images[3:]]
    every = [Item(f"{n}", "what?", (), tuple(each)) for n, each in enumerate(shown)]
    rows = Rows(bundled(every))
    seen = Seen.of(every[:1])
    for count in (2, 3):
        assert numbers(rows, take_unseen(rows, seen.links, count)) == {3, 4}
    assert numbers(rows, take_unseen(rows, (), 2)) == {0, 1}


@given(st.lists(st.integers(1, 6), min_size=2, max_size=7), st.integers(1, 9), st.integers(1, 9))
def test_groups_are_divided_in_the_best_proportion(sizes, samples, heldout):
    def filled(chosen):
        first = sum(sizes[position] for position in chosen)
        return min(first * heldout, (sum(sizes) - first) * samples)

    every = (c for count in range(len(sizes) + 1) for c in combinations(range(len(sizes)), count))
    assert filled(balanced(sizes, samples, heldout)) == max(map(filled, every)) > 0
