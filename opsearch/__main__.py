"""`python -m opsearch` is the command `opsearch`."""

from opsearch.cli import main

main()
