"""Commands that load a recipe, on one process or several."""

import argparse
import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from ...distributed.preemption import EXIT_PREEMPTED, PreemptedError
from ...distributed.supervise import fork_supervised
from ...recipe.load import dump
from ...recipe.schema import Recipe
from ...training.health import DivergedError
from ..options import joins, load_recipe
from ..process import EXIT_DIVERGED, ExitError, invalid_input


if TYPE_CHECKING:
    from rich.console import Console


Command = Callable[[argparse.Namespace, Mapping[str, str]], None]
"""Runs a command, given its options and environment variables."""


def with_recipe(act: Callable[[Recipe, argparse.Namespace, float], None]) -> Command:
    """A command that loads a recipe, and prints it if that is all that is asked for.

    JAX takes seconds to import, and a misspelt key should not: what needs JAX is
    imported by `act`, which is called with the recipe, the options and the start time.
    """

    def command(options: argparse.Namespace, environment: Mapping[str, str]) -> None:
        start = time.perf_counter()
        with invalid_input():
            recipe = load_recipe(options, environment)
        if options.print_config:
            print(dump(recipe), end="")
            return
        with invalid_input():
            one_of_many = joins(options, recipe)
        from ...distributed.mesh import check_devices

        with contextlib.ExitStack() as stack:
            if one_of_many:
                stack.enter_context(_distributed(recipe, options))
            with invalid_input():
                check_devices()
            from .compile_cache import keep_programs_of

            stack.enter_context(keep_programs_of(recipe, environment, console()))
            act(recipe, options, start)

    return command


@contextlib.contextmanager
def _distributed(recipe: Recipe, options: argparse.Namespace) -> Iterator[None]:
    """A context in which this is one of several processes."""
    fork_supervised()
    from ...distributed import processes

    with contextlib.ExitStack() as stack:
        with invalid_input():
            stack.enter_context(
                processes.distributed(
                    coordinator=options.coordinator,
                    num_processes=options.processes,
                    process_id=options.process,
                    start_timeout=recipe.distributed.start_timeout,
                    heartbeat_timeout=recipe.distributed.heartbeat_timeout,
                    collective_errors=(ExitError,),
                )
            )
        yield


def console() -> "Console":
    """The terminal, for the first process of a run."""
    from rich.console import Console

    from ...distributed import processes

    return Console(quiet=not processes.is_process_0())


@contextlib.contextmanager
def exit_codes(out: Path | None) -> Iterator[None]:
    """A context in which a run that ends early has an exit code of its own."""
    try:
        # Another process may have taken the directory since.
        with invalid_input((BlockingIOError, FileExistsError)):
            yield
    except PreemptedError as error:
        how = f"{error}: go on with --out {out} --resume"
        raise ExitError(EXIT_PREEMPTED, how) from None
    except DivergedError as error:
        raise ExitError(EXIT_DIVERGED, str(error)) from None
