"""The rows that the suites print as JSON."""

from typing import Any

BenchmarkRow = dict[str, Any]
"""Names and values of one measurement."""
