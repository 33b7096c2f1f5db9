"""Storage: measurements.db."""
