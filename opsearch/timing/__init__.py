"""Timing of the original against a policy on equal inputs, in suites and for `opsearch bench`."""

PARTS = ("tower", "ranking", "prefill", "first_token", "decode")
"""Names of the timed parts of a generation, here because printing them needs no torch."""
