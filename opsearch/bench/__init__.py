"""Timing: the original against a policy on the same inputs, in suites and for `opsearch bench`."""
