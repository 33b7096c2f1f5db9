"""report.html: one page about a run, made from its folder."""
