"""`python -m opsearch` is the command `opsearch`, which also starts here."""

import os
import sys


def main() -> None:
    """Run the command line; Ctrl-C ends it also while its modules are imported."""
    try:
        from opsearch.commands.cli import main as run
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr, flush=True)
        os._exit(130)
    run()


if __name__ == "__main__":
    main()
