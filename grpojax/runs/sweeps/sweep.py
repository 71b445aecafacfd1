"""Runs one after another, through the programs that the first of them compiled."""

import contextlib
import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol, runtime_checkable

from rich.console import Console

from ..distributed import processes
from ..distributed.preemption import PreemptedError, Preemption
from ..evaluation.printing import echo
from ..io.run_directory import CONFIG, RunDirectory, SUMMARY
from ..recipe import build
from ..recipe.load import dump, parse
from ..recipe.schema import Recipe
from ..reports import write_report
from ..training import fit
from ..training.health import DivergedError
from ..training.settings import Prepared
from .grid import program_of, recipes_of
from .programs import Programs


@runtime_checkable
class Prepare(Protocol):
    """Loads a recipe's parts, with the programs of another run if there are any."""

    def __call__(
        self,
        recipe: Recipe,
        out: Path,
        *,
        resume: bool,
        console: Console | None,
        programs: Programs | None,
        rate_is_input: bool,
    ) -> Prepared: ...


@dataclasses.dataclass
class Sweep:
    """The runs of a recipe, in the directories `out/NAME`.

    Each is a run of its own, which can be resumed, evaluated and reported alone. Those
    whose recipes differ in nothing but the seed and a learning rate share what has been
    traced and compiled. One after another is in memory.

    **Arguments:**

    - `recipe`: with `run.seeds` or `sweep`.
    - `out`: the directory of the sweep.
    - `prepare`: prepares one of the runs.
    - `resume`: goes on with the sweep in `out`; runs that are finished stay as they
        are.
    - `console`: where progress is shown.

    **Raises:** `ValueError` or `OSError` for runs or directories that cannot be.
    """

    recipe: Recipe
    out: Path
    prepare: Prepare
    resume: bool = False
    console: Console | None = None

    def __post_init__(self):
        self.recipes = recipes_of(self.recipe)
        for name, recipe in self.recipes.items():
            build.check(recipe)
            config = build.config_of(recipe)
            fit.claim(self.out / name, resume=self.resume, config=config)
        self._directory = processes.on_process_0(self._claim)
        self._programs: tuple[Recipe | None, Programs | None] = None, None

    def _claim(self) -> RunDirectory:
        started = self.resume and (self.out / CONFIG).exists()
        return RunDirectory(self.out, resume=started, kind="sweep")

    def run(self) -> Path:
        """Takes all runs to their ends, and reports them.

        **Returns:** the path of the report.

        **Raises:** as `fit`. A run that has diverged leaves the others as they are: the
        `DivergedError` is raised at the end.
        """
        diverged: dict[str, str] = {}
        with self._recorded(), Preemption() as preemption:
            for place, name in enumerate(self.recipes):
                if preemption.requested:
                    preemption.raise_preempted()
                if self._is_finished(name):
                    continue
                if self.console is not None:
                    where = f"run {place + 1} of {len(self.recipes)}"
                    echo(self.console, f"{name}, {where}", style="bold")
                try:
                    fit.run(self._prepare(name))
                except DivergedError as error:
                    diverged[name] = str(error)
            paths = [self.out / name for name in self.recipes]
            report = self.out / "report.md"
            processes.on_process_0(lambda: write_report(paths, self.out))
            if diverged:
                each = "; ".join(f"{name}: {why}" for name, why in diverged.items())
                count = f"{len(diverged)} of {len(self.recipes)} runs"
                raise DivergedError(f"{count} have diverged: {each}")
        return report

    def _prepare(self, name: str) -> Prepared:
        recipe = self.recipes[name]
        program = program_of(recipe)
        rates = {
            x.optimizer.learning_rate
            for x in self.recipes.values()
            if isinstance(x.optimizer.learning_rate, float) and program_of(x) == program
        }
        known, programs = self._programs
        prepared = self.prepare(
            recipe,
            self.out / name,
            resume=self.resume,
            console=self.console,
            programs=programs if known == program else None,
            rate_is_input=len(rates) > 1,
        )
        self._programs = program, Programs.of(prepared)
        return prepared

    def _is_finished(self, name: str) -> bool:
        """Whether a run has been taken to its end, as its recipe is now."""
        path, recipe = self.out / name, self.recipes[name]

        def read() -> bool:
            try:
                complete = json.loads((path / SUMMARY).read_bytes())["complete"]
                config = (path / CONFIG).read_text(encoding="utf-8")
                return complete is True and parse(Recipe(), config) == recipe
            except (OSError, ValueError, KeyError):
                return False

        return self.resume and processes.broadcast_from_0(read)

    @contextlib.contextmanager
    def _recorded(self) -> Iterator[None]:
        """A context in which the sweep's directory says how far it is."""
        directory, summary = self._directory, {"runs": list(self.recipes)}
        if directory is None:
            yield
            return
        with directory:
            running = {"status": "running", **summary}
            if directory.resumes:
                directory.resume(0, running)
                directory.write_config(dump(self.recipe))
            else:
                directory.start(dump(self.recipe), running)
            try:
                yield
                directory.update({"status": "finished", **summary}, complete=True)
            except BaseException as error:
                preempted = isinstance(error, PreemptedError)
                status = "preempted" if preempted else "failed"
                with contextlib.suppress(OSError):
                    directory.update({"status": status, **summary})
                raise
