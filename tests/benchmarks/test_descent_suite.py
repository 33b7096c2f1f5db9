"""The suite `descent` times the same step with one thread and with all."""

import torch

from benchmarks.descent import descent_step


def test_a_row_per_setting_and_the_number_of_threads_as_before():
    before = torch.get_num_threads()
    rows = list(descent_step(tiny=True))
    assert [row["threads"] for row in rows] == ["one thread", "one product on all", "all"]
    assert all(row["seconds"] > 0 for row in rows)
    assert rows[0]["speedup"] == 1
    assert torch.get_num_threads() == before
