"""What the tests of measurements share."""

import pytest

from opsearch.measure.store import Store


@pytest.fixture
def store(tmp_path):
    """An empty store."""
    with Store(tmp_path / "measurements.db", {}) as opened:
        yield opened
