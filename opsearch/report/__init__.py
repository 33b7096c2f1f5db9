"""report.html: one page on a run, the answer first, from what its folder holds."""
