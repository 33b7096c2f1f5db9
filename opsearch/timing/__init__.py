"""Timing of the original against a policy on equal inputs, in suites and for `opsearch bench`."""
