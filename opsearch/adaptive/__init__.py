"""A few policies, and a selector that gives each request one of them."""

DEFAULT_SELECTOR = "question"
"""What a choice reads unless another selector is named; see `opsearch.adaptive.features`."""
