"""Random parts of spaces, for property tests."""

from fractions import Fraction

from hypothesis import strategies as st


def drawn_groups(most=9):
    """Return a strategy for nested groups of the tokens in space `operations`.

    Args:
        most: Most groups, including all tokens.
    """
    share = st.fractions(0, 1, max_denominator=24).filter(lambda x: 0 < x < 1)
    smaller = st.lists(share, min_size=1, max_size=most - 1, unique=True)
    return smaller.map(lambda found: (*sorted(found), Fraction(1)))
