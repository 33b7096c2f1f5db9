"""Latency of a policy as the sum of its layers' times in the table, in nanoseconds."""

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from opsearch.costs import COSTS
from opsearch.costs.base import SampleSize, stock_cost
from opsearch.costs.latency import Latency
from opsearch.costs.latency_table import LatencyTable
from opsearch.costs.shape import CHECKPOINTS
from opsearch.errors import OpsearchError, RunFolderError
from opsearch.policy import builders
from opsearch.policy.counts import live
from opsearch.problem.budget import total_cost
from opsearch.runs.latency_file import read_table, write_table
from tests.support.messages import refuses

LAYERS, VISUAL, OTHER = 4, 100, 10
SHAPE = replace(CHECKPOINTS["llava-1.5-7b"].shape, layers=LAYERS)
# 10 ns per query row, 3 per key row, 7 per MLP row, 100 per layer; 5 more where the
# numbers of query and key rows differ.
ROWS, COARSE = (10, 60, 110), (10, 110)
TABLE = LatencyTable(
    rows=ROWS,
    coarse=COARSE,
    same=tuple(100 + 13 * n + 70 for n in ROWS),
    split=tuple(tuple(100 + 10 * q + 3 * kv + 70 + 5 for kv in COARSE) for q in COARSE),
    mlp=tuple(100 + 130 + 7 * n for n in ROWS),
    base=100 + 130 + 70,
    once=1000,
    launch=0,
    launch_split=0,
    place="here",
)
LATENCY = Latency(SHAPE, TABLE)


def expected(counts):
    rows = counts + OTHER
    parts = 100 + 10 * rows[:, 0] + 3 * rows[:, 1] + 7 * rows[:, 2] + 5 * (rows[:, 0] != rows[:, 1])
    return 1000 + int(parts.sum())


counts_of = st.lists(
    st.tuples(*[st.integers(0, VISUAL)] * 3), min_size=LAYERS, max_size=LAYERS
).map(lambda rows: np.array(rows, np.int64))


@given(counts_of)
def test_layers_are_added_up_and_points_between_the_grid_interpolated(counts):
    assert LATENCY.of(counts, VISUAL, OTHER) == expected(live(counts))


@given(st.lists(counts_of, min_size=2, max_size=5))
def test_many_policies_at_once_are_the_same_as_one_by_one(tables):
    together = LATENCY.of(np.stack(tables), VISUAL, OTHER)
    assert together.dtype == np.int64
    assert together.tolist() == [int(LATENCY.of(table, VISUAL, OTHER)) for table in tables]


def test_the_identity_is_the_stock_model_with_its_dead_operations():
    everything = builders.identity(LAYERS).resolve(VISUAL)
    assert LATENCY.of(everything, VISUAL, OTHER) == LATENCY.stock(VISUAL, OTHER)
    assert LATENCY.stock(VISUAL, OTHER) == expected(everything) > expected(live(everything))


def test_a_device_that_is_done_waits_for_the_host():
    """Layers of 300 ns are launched every 5,000 ns, so the last of four starts after 20,000 ns."""
    slow = Latency(SHAPE, replace(TABLE, launch=5000, launch_split=5000))
    nothing = builders.vtw(LAYERS, 0).resolve(VISUAL)
    assert slow.of(nothing, VISUAL, OTHER) == 1000 + LAYERS * 5000 + 300


def test_a_busy_device_hides_the_host():
    """Layers of 2,300 ns are launched every 1,000 ns, so only the first launch adds time."""
    busy = Latency(SHAPE, replace(TABLE, launch=1000))
    assert busy.stock(VISUAL, OTHER) == LATENCY.stock(VISUAL, OTHER) + 1000


def test_rows_outside_the_table_are_refused():
    with refuses(OpsearchError, "10 to 111", "10 to 110", "fit"):
        LATENCY.of(builders.vtw(LAYERS, 2).resolve(101), 101, OTHER)


def test_without_a_table_the_error_names_the_next_step():
    with refuses(OpsearchError, "opsearch run", "--model", "--budget 30%"):
        COSTS["latency"](SHAPE)


PICTURES = replace(TABLE, image_flops=(1000, 3000), images=(400, 800))


@pytest.mark.parametrize(
    ("flops", "time"), [(0, 0), (500, 200), (1000, 400), (2000, 600), (3000, 800), (6000, 1600)]
)
def test_images_add_a_time_by_their_flops(flops, time):
    latency = Latency(SHAPE, PICTURES)
    pruned = builders.vtw(LAYERS, 2)
    sizes = [SampleSize(VISUAL, OTHER, flops), SampleSize(VISUAL, OTHER, 0)]
    assert stock_cost(latency, sizes) == 2 * LATENCY.stock(VISUAL, OTHER) + time
    layers = LATENCY.of(pruned.resolve(VISUAL), VISUAL, OTHER)
    assert total_cost(latency, pruned, sizes) == 2 * layers + time


def test_without_times_of_images_a_table_tells_those_of_the_decoder():
    unknown = [SampleSize(VISUAL, OTHER, None)]
    assert stock_cost(LATENCY, unknown) == LATENCY.stock(VISUAL, OTHER)
    with refuses(OpsearchError, "latency", "vision tower"):
        stock_cost(Latency(SHAPE, PICTURES), unknown)


def test_a_table_survives_its_file(tmp_path):
    for table in (TABLE, PICTURES):
        assert read_table(write_table(table, tmp_path / "latency.json")) == table


@pytest.mark.parametrize(
    "change",
    [
        {"rows": [10, 110]},
        {"rows": [60, 10, 110]},
        {"split": [[1, 2]]},
        {"once": "soon"},
        {"images": [5]},
        {"image_flops": [2, 1], "images": [5, 6]},
        {"another": 1},
    ],
)
def test_a_damaged_table_is_refused(tmp_path, change):
    path = write_table(TABLE, tmp_path / "latency.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with refuses(RunFolderError, path, "run"):
        read_table(path)
