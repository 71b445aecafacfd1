"""GRPO on grade-school maths: trains a language model on a CPU in two minutes.

    python examples/gsm8k.py
    python examples/gsm8k.py --set run.seed=1 --out out/seed-1
    python examples/gsm8k.py --config examples/recipes/qwen2.5-0.5b.yaml --out out/qwen

Without arguments it trains the tiny model that grpojax ships on generated word
problems. It is `grpojax train` with the recipe as an option.
"""

import argparse
import os
import sys
from collections.abc import Sequence

from grpojax.runs.cli import main as commands


def main(argv: Sequence[str]) -> int:
    """Runs the command line, and returns the exit code."""
    parser = argparse.ArgumentParser(
        description="GRPO on grade-school maths, by default with a tiny model on a CPU."
    )
    parser.add_argument("--config", dest="recipe", metavar="FILE.yaml", help="a recipe")
    commands.add_options(parser, commands.TRAIN)
    parser.set_defaults(command=commands.train)
    return commands.run(parser, argv, os.environ)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
