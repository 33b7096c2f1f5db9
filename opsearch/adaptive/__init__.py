"""A few policies, and a selector that gives each request one of them."""
