"""Length of a generated answer, and its maximum by the accepted answers of the sample."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

_LEAST = 16
_MARGIN = 8


class Length(NamedTuple):
    """Length of a generated answer.

    Attributes:
        tokens: Number of tokens, including the end token.
        cut: True if the answer reached its limit without an end token.
    """

    tokens: int
    cut: bool


def token_limit(tokenizer: Any, answers: Sequence[str], given: int | None = None) -> int:
    """Return the maximum number of tokens of the answer to a sample.

    It depends on this sample only: one and a half times the longest accepted answer and 8 more, at
    least 16.

    Args:
        tokenizer: The model's tokenizer.
        answers: Accepted answers.
        given: The limit that the user set; None: by the accepted answers.
    """
    if given is not None:
        return given
    # JSON can hold halves of characters, which tokenizers refuse.
    texts = [answer.encode("utf-8", "replace").decode() for answer in answers]
    if not texts:
        return _LEAST
    encoded = tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]
    return max(_LEAST, 3 * max(map(len, encoded)) // 2 + _MARGIN)


def length(tokens: Sequence[int], limit: int, end_tokens: frozenset[int]) -> Length:
    """Return the length of an answer in a row of generated tokens, which may go on behind it."""
    own = tokens[:limit]
    for count, token in enumerate(own, 1):
        if token in end_tokens:
            return Length(count, cut=False)
    return Length(len(own), cut=len(own) == limit)
