"""Names of the timed parts of a generation; printing them needs no torch."""

PARTS = ("tower", "ranking", "prefill", "first_token", "decode")
