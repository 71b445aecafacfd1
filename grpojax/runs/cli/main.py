"""The command line.

    grpojax train [RECIPE] [--set KEY=VALUE ...] [--out DIR [--resume]]
    grpojax warmup [RECIPE | MODEL] [--set KEY=VALUE ...] [--out DIR [--resume]]
    grpojax evaluate MODEL [--out DIR]
    grpojax generate MODEL [--prompt TEXT ...]
    grpojax serve MODEL [--host HOST --port PORT]
    grpojax export RUN[/checkpoints/N] DIR [--adapter]
    grpojax replay RUN --step N [--set algorithm.KEY=VALUE ...]
    grpojax report RUN... [--out DIR]
    grpojax pipeline FILE [--out DIR] [--only N ...] [--slurm]

Invalid configurations are rejected before anything is compiled or written, with exit
code 2. A run that gets SIGTERM exits with 75, and `--resume` continues it; one that has
diverged, or whose reward function fails on every row, exits with 3, and one of several
processes that has lost another with 69. A full disk, a file that cannot be written or
too little memory end a command with 74, and a run goes on where it was.
"""

import argparse
import contextlib
import functools
from collections.abc import Mapping, Sequence

from ..recipe.schema import Recipe
from ..sweeps.grid import first_of, is_sweep
from . import process
from .options import (
    add_options as add_options,
    RECIPE,
    SERVER,
    server_of,
    TRAIN as TRAIN,
    wants_resume,
)
from .process import ExitError, invalid_input, log_from
from .start.with_recipe import (
    Command,
    console,
    exit_codes,
    with_recipe as with_recipe,
)


@with_recipe
def train(recipe: Recipe, options: argparse.Namespace, start: float) -> None:
    """`grpojax train`."""
    from ..distributed import processes
    from ..evaluation.printing import echo
    from ..training import fit
    from . import estimate, train

    out, resume, terminal = options.out, options.resume, console()
    if is_sweep(recipe) and not options.dry_run:
        with invalid_input():
            sweep = train.prepare_sweep(recipe, out, resume=resume, console=terminal)
        with exit_codes(out):
            sweep.run()
        return
    with invalid_input():
        # The runs of a sweep need the same memory, one after another.
        recipe, out = first_of(recipe, out)
        prepared = train.prepare(
            recipe, out, resume=resume, console=terminal, weights=not options.dry_run
        )
    prepared = prepared._replace(start=start)
    if options.dry_run:
        needs = estimate.describe(estimate.estimate(prepared))
        if processes.is_process_0():
            print(f"{prepared.config.summary}\n{needs}")
        return
    if out is None:
        remark = "Without --out nothing is kept: no checkpoint, no model."
        echo(terminal, remark, style="bold")
    with exit_codes(out):
        fit.run(prepared)
    if out is None:
        remark = "The trained model was not kept: name a directory with --out."
        echo(terminal, remark, style="bold")


@with_recipe
def evaluate(recipe: Recipe, options: argparse.Namespace, start: float) -> None:
    """`grpojax evaluate`."""
    from . import evaluate

    with invalid_input():
        resume = wants_resume(options)
        run = evaluate.prepare(
            recipe,
            options.out,
            name=options.evaluation,
            resume=resume,
            start=start,
        )
    # Another process may have taken the directory since.
    with invalid_input((BlockingIOError, FileExistsError)):
        run(console())


@with_recipe
def generate(recipe: Recipe, options: argparse.Namespace, start: float) -> None:
    """`grpojax generate`."""
    from . import generate

    del start
    problems, samples = options.problems, options.samples
    with invalid_input():
        run = generate.prepare(
            recipe, options.prompt, problems=problems, samples=samples
        )
    generate.print_records(run(), console())


@with_recipe
def serve(recipe: Recipe, options: argparse.Namespace, _: float) -> None:
    """`grpojax serve`."""
    from ..recipe.build import load_served
    from ..serve.prepare import prepare

    with invalid_input():
        run = prepare(lambda: load_served(recipe), **server_of(options, recipe))
    run(console())


@with_recipe
def export(recipe: Recipe, options: argparse.Namespace, start: float) -> None:
    """`grpojax export`."""
    from . import export

    del start
    with invalid_input():
        print(export.export(recipe, options.directory, adapter=options.adapter))


def replay(options: argparse.Namespace, environment: Mapping[str, str]) -> None:
    """`grpojax replay`."""
    from ..replay import recipe as replays
    from .start.compile_cache import keep_programs_of

    run, step, changes = options.run, options.step, options.set
    out = options.out or run / replays.REPLAYS / str(step)
    with contextlib.ExitStack() as stack:
        with invalid_input():
            recipe = replays.recipe_of(run, step, environment)
            stack.enter_context(keep_programs_of(recipe, environment, console()))
            take = replays.prepare(run, step, changes=changes, environment=environment)
        print(f"{replays.write(take(), out)}\n{out / replays.PAGE}")


def report(options: argparse.Namespace, environment: Mapping[str, str]) -> None:
    """`grpojax report`."""
    from ..reports import write_report

    del environment
    with invalid_input():
        written = write_report(options.runs, options.out)
    print(f"{written}\n{written.with_suffix('.html')}")


def pipeline(options: argparse.Namespace, environment: Mapping[str, str]) -> None:
    """`grpojax pipeline`."""
    from ..pipeline import run as pipelines
    from ..pipeline.plan import read_plan

    with invalid_input():
        plan = read_plan(options.pipeline, options.out)
        if options.slurm:
            script = pipelines.slurm_script(plan, options.pipeline, options.out)
            print(script, end="")
            return
        log = functools.partial(print, flush=True)
        try:
            made = pipelines.run(plan, environment, only=options.only, log=log)
        except pipelines.FailedError as error:
            raise ExitError(error.code, str(error)) from None
    if made is not None:
        print(made)


_EXPORT = ("model", "directory", "--adapter", *RECIPE)
_READING = ("model", "--recipe", *RECIPE)
COMMANDS: dict[str, tuple[Command, str, tuple[str, ...]]] = {
    "train": (train, "train what a recipe describes", ("recipe", *TRAIN)),
    "warmup": (
        train,
        "learn the completions of rows, before any rollout",
        ("recipe", *TRAIN),
    ),
    "evaluate": (
        evaluate,
        "judge a model on held-out problems",
        (*_READING, "--evaluation", "--out", "--resume"),
    ),
    "generate": (
        generate,
        "look at a model's answers and rewards",
        (*_READING, "--prompt", "--problems", "--samples"),
    ),
    "serve": (serve, "answer requests of OpenAI's protocol", (*_READING, *SERVER)),
    "export": (export, "write the model of a run or of a checkpoint", _EXPORT),
    "replay": (
        replay,
        "take a step of a run again, and take it apart",
        ("run", "--step", "--set", "--out"),
    ),
    "report": (report, "say what runs have come to", ("runs", "--out")),
    "pipeline": (
        pipeline,
        "train, judge and report recipes x tasks x seeds",
        ("pipeline", "--out", "--only", "--slurm"),
    ),
}
"""Commands by name: their functions, what they are for, and their options."""

STAGES = {"warmup": "warmup"}
"""Commands that choose `run.stage`."""


def build_parser() -> argparse.ArgumentParser:
    """The command line and its commands."""
    parser = argparse.ArgumentParser(
        prog="grpojax", description="GRPO post-training of language models."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, (command, words, options) in COMMANDS.items():
        added = commands.add_parser(name, help=words)
        add_options(added, options)
        added.set_defaults(command=command, stage=STAGES.get(name))
    return parser


def main(argv: Sequence[str], environment: Mapping[str, str]) -> int:
    """Runs `grpojax`; see `run`."""
    return run(build_parser(), argv, environment)


def run(
    parser: argparse.ArgumentParser,
    argv: Sequence[str],
    environment: Mapping[str, str],
) -> int:
    """Runs a command line.

    **Arguments:**

    - `parser`: whose `command` is a function of the options and the variables.
    - `argv`: without the program's name.
    - `environment`: variables: `LOGLEVEL`, and those that a recipe names.

    **Returns:** the exit code: 0, 2 for what was refused, 75 for a run that was told to
    leave, 3 for one that is not worth its time, 69 for one that has lost a process and
    74 for what the machine has denied room, a file or memory.
    """
    options = parser.parse_args(argv)

    def command() -> None:
        with invalid_input():
            log_from(environment.get("LOGLEVEL", "WARNING"))
        options.command(options, environment)

    return process.run(parser.prog, command)
