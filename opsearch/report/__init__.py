"""Pages in HTML: the report of a run and the comparison of methods, from a run folder."""
