"""`python -m opsearch` is the command `opsearch`."""

from opsearch.commands.cli import main

main()
