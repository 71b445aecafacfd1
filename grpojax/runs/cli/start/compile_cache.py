"""Compiled programs in the user's cache folder, so that a second start reads them."""

import contextlib
import logging
import re
import sys
import time
import uuid
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path

import jax
from jax.experimental.compilation_cache import compilation_cache
from rich.console import Console

from ...distributed import processes
from ...evaluation.printing import echo
from ...recipe.schema import Recipe


_PLACES = {"darwin": ("HOME", "Library/Caches"), "win32": ("LOCALAPPDATA", "")}
_DAYS = 30  # After which a program is compiled again.

logger = logging.getLogger(__name__)


def cache_folder(
    setting: bool | str, environment: Mapping[str, str], system: str = sys.platform
) -> Path | None:
    """The folder that `run.compile_cache` names; `None` for none.

    **Arguments:**

    - `setting`: `True` for the user's cache folder, or a path.
    - `environment`: variables, of which the system's convention names the folder.
    - `system`: as `sys.platform`.
    """
    if isinstance(setting, str):
        return Path(setting).expanduser()
    variable, below = _PLACES.get(system, ("HOME", ".cache"))
    base = environment.get("XDG_CACHE_HOME")
    if not base and environment.get(variable):
        base = Path(environment[variable], below)
    return Path(base, "grpojax", "programs") if setting and base else None


@contextlib.contextmanager
def keep_programs(folder: Path | None) -> Iterator[Path | None]:
    """A context in which JAX reads compiled programs from a folder, and writes them.

    Yields the folder; `None` where it cannot be used, of which a warning says why, and
    where JAX's own configuration decides: a cache that the user has set up or switched
    off. Collective: all processes enter it. Only process 0 writes, so that a folder
    that the others do not see would help none of them.
    """
    names = "jax_compilation_cache_dir", "jax_enable_compilation_cache"
    configured = [getattr(jax.config, name) for name in names] != [None, True]
    if folder is None or configured or not _is_usable(folder):
        yield None
        return
    settings = {
        "jax_compilation_cache_dir": str(folder),
        # Small programs, too: dozens are compiled before the first step.
        "jax_persistent_cache_min_compile_time_secs": 0.0,
    }
    before = {name: getattr(jax.config, name) for name in settings}
    with warnings.catch_warnings():
        _report_in_a_sentence(folder)
        _configure(settings)
        try:
            yield folder
        finally:
            _configure(before)


@contextlib.contextmanager
def keep_programs_of(
    recipe: Recipe, environment: Mapping[str, str], console: Console
) -> Iterator[None]:
    """A context in which compiled programs are kept as `run.compile_cache` says."""
    with keep_programs(cache_folder(recipe.run.compile_cache, environment)) as used:
        if used is not None:
            echo(console, f"cache  compiled programs are kept in {used}")
        yield


def _configure(settings: Mapping[str, object]) -> None:
    for name, value in settings.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()


def _is_usable(folder: Path) -> bool:
    """Whether process 0 can write to the folder, and all of them see what it writes."""
    trial = folder / f"trial-{uuid.uuid4().hex}"

    def write() -> tuple[str, str]:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            trial.touch()
            _remove_old(folder)
        except OSError as error:
            return "", f"{type(error).__name__}: {error}"
        return str(trial), ""

    written, problem = processes.broadcast_from_0(write)
    if written and processes.any_process(not Path(written).exists()):
        problem = "not all processes see what process 0 writes there"
    if written and processes.is_process_0():
        trial.unlink(missing_ok=True)
    if problem and processes.is_process_0():
        logger.warning(
            "Compiled programs are not kept in %s (%s): set run.compile_cache to "
            "another folder, or to false.",
            *(folder, problem),
        )
    return not problem


def _remove_old(folder: Path) -> None:
    """Removes what was compiled long ago, by versions and for sizes of the past."""
    for entry in folder.glob("*-cache"):
        if time.time() - entry.stat().st_mtime > _DAYS * 86_400:
            entry.unlink(missing_ok=True)


def _report_in_a_sentence(folder: Path) -> None:
    """Shows JAX's warnings about the cache as a line of the log.

    JAX never replaces an entry. One that cannot be read, as a full disk or a kill
    leaves it, is removed here, and written again after compiling.
    """
    shown = warnings.showwarning
    about = r"Error (reading|writing) persistent compilation cache entry for '(.+?)'"

    def report(message, category, *where, **options) -> None:
        found = re.match(about, str(message))
        if found is None:
            shown(message, category, *where, **options)
            return
        verb, name = found.groups()
        if verb == "reading":
            for entry in folder.glob(f"{name}-*-cache"):
                entry.unlink(missing_ok=True)
        logger.warning("%s: the program is compiled, and the run goes on.", message)

    warnings.filterwarnings("always", message=about)
    warnings.showwarning = report
