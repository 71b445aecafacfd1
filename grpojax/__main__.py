"""`python -m grpojax`, and the command `grpojax`: see `grpojax.runs.cli`."""

import os
import sys

from .runs.cli import main as commands


def main() -> None:
    """Runs the command line, and leaves with its exit code."""
    # Tasks and parts may be modules of the working directory, which `python -m` puts on
    # the path and an installed script does not.
    if not {"", os.getcwd()} & set(sys.path):
        sys.path.insert(0, os.getcwd())
    sys.exit(commands.main(sys.argv[1:], os.environ))


if __name__ == "__main__":
    main()
