"""Fixtures of the measurement tests."""

import pytest

from opsearch.measure.storage.store import Store


@pytest.fixture
def store(tmp_path):
    """Yield an empty store."""
    with Store(tmp_path / "measurements.db", {}) as opened:
        yield opened
