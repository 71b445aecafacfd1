"""GRPO on grade-school maths: a language model gets better while you watch.

    python examples/gsm8k.py
    python examples/gsm8k.py --set run.seed=1 --out out/seed-1
    python examples/gsm8k.py --config examples/recipes/qwen2.5-0.5b.yaml --out out/qwen

Without arguments: the tiny model that grpojax ships, made-up word problems, a CPU. It
is `grpojax train` under another name.
"""

import argparse
import os
import sys
from collections.abc import Sequence

from grpojax.runs.cli import main as commands


def main(argv: Sequence[str]) -> int:
    """Runs what the command line describes, and returns the exit code."""
    parser = argparse.ArgumentParser(
        description="GRPO on grade-school maths, by default with a tiny model on a CPU."
    )
    parser.add_argument("--config", dest="recipe", metavar="FILE.yaml", help="a recipe")
    commands.add_train_options(parser)
    parser.set_defaults(command=commands.train)
    return commands.run(parser, argv, os.environ)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
