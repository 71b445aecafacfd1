"""`python -m grpojax`, and the command `grpojax`: see `grpojax.runs.commands`."""

import os
import sys

from .runs import commands


def main() -> None:
    """Runs the command line, and leaves with its exit code."""
    sys.exit(commands.main(sys.argv[1:], os.environ))


if __name__ == "__main__":
    main()
