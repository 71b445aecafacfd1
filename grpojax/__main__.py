"""`python -m grpojax`, and the command `grpojax`: see `grpojax.runs.cli`."""

import os
import sys

from .runs.cli import main as commands


def main() -> None:
    """Runs the command line, and leaves with its exit code."""
    sys.exit(commands.main(sys.argv[1:], os.environ))


if __name__ == "__main__":
    main()
