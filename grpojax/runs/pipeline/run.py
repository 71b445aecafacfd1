"""A pipeline from its file to its catalogue, and as an array of SLURM."""

import os
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from ..distributed.preemption import EXIT_PREEMPTED
from ..io.run_directory import CONFIG, SUMMARY
from ..reports import write_catalogue, write_report
from .plan import Cell, Plan
from .stages import last_line, recipe_of, run_stage, Stage, stages_of


class FailedError(Exception):
    """Runs of a pipeline have failed; the others were made.

    **Fields:**

    - `code`: the exit code of the first that failed.
    """

    def __init__(self, code: int, message: str):
        super().__init__(message)
        self.code = code


def run(
    plan: Plan,
    environment: Mapping[str, str],
    *,
    only: Sequence[int] | None = None,
    log: Callable[[str], None] = lambda _: None,
) -> Path | None:
    """Makes the stages that are not over of the runs of a pipeline, one after another.

    A pipeline that was killed, at any moment, is called again: what is complete is
    skipped, what was begun is resumed. A run that fails is left, and the others are
    made. After every run its report, that of its seeds and the catalogue are written,
    from whatever is there.

    **Arguments:**

    - `plan`: of `read_plan`.
    - `environment`: variables of the commands, and those that recipes name.
    - `only`: indices of runs; by default all of them.
    - `log`: called with one line for each stage.

    **Returns:** the catalogue, `index.html`; `None` where `report` is no stage.

    **Raises:** `ValueError` or `OSError` for a recipe that does not load, before
    anything is run; `FailedError` in the end if a run has failed, and at once if it was
    told to leave, with code 75.

    !!! example

        ```python
        run(read_plan("pipeline.yaml"), os.environ, log=print)
        ```
    """
    cells = plan.cells
    for index in only or []:
        if not 0 <= index < len(cells):
            raise ValueError(
                f"A pipeline of {len(cells)} runs numbers them from 0. Received "
                f"{index}."
            )
    chosen = cells if only is None else [cells[index] for index in only]
    recipes = {cell: recipe_of(cell, environment) for cell in chosen}
    failed: list[tuple[Cell, int, str]] = []
    catalogue = None
    for cell in chosen:
        name = f"[{cell.index + 1}/{len(cells)}] {cell.path}"
        for stage in stages_of(plan, cell):
            if stage.is_complete(recipes[cell], cell.path):
                log(f"{name}: {stage.name} is complete")
                continue
            log(f"{name}: {stage.name} ...")
            code = run_stage(stage, environment, log=log)
            if code:
                why = _explain(stage, code)
                if code == EXIT_PREEMPTED:
                    raise FailedError(code, f"{cell.path}: {why}")
                log(f"{name}: {why}")
                failed.append((cell, code, why))
                break
        if "report" in plan.stages:
            catalogue = _report(cell, cells, plan.out)
    if failed:
        names = "; ".join(f"{cell.path}: {why}" for cell, _, why in failed)
        raise FailedError(
            failed[0][1], f"{len(failed)} of {len(chosen)} runs failed. {names}"
        )
    return catalogue


def _explain(stage: Stage, code: int) -> str:
    return f"{stage.name} ended with code {code} ({last_line(stage.log)})"


def _report(cell: Cell, cells: Sequence[Cell], out: Path) -> Path:
    """Reports of a run and of its seeds, where they are not of now; the catalogue."""
    made = [x.path for x in cells if (x.path / CONFIG).is_file()]
    seeds = [path for path in made if path.parent == cell.path.parent]
    if cell.path in made and not _is_newer(cell.path, [cell.path]):
        write_report([cell.path])
    if len(seeds) > 1 and not _is_newer(cell.path.parent, seeds):
        write_report(seeds, cell.path.parent)
    return write_catalogue(made, out)


def _is_newer(folder: Path, runs: Sequence[Path]) -> bool:
    """Whether the report in a folder is later than the last words of its runs."""
    page = folder / "report.html"
    last = [run / SUMMARY for run in runs if (run / SUMMARY).is_file()]
    return page.is_file() and all(
        x.stat().st_mtime_ns < page.stat().st_mtime_ns for x in last
    )


def slurm_script(
    plan: Plan, file: str | os.PathLike[str], out: str | os.PathLike[str] | None
) -> str:
    """A job script of SLURM whose tasks are the runs of a pipeline.

    `grpojax pipeline FILE --slurm | sbatch`. A run that is told to leave is queued
    again, and resumed.

    **Arguments:**

    - `plan`: of `read_plan`; its `slurm` become options of `sbatch`.
    - `file`, `out`: as they were given to `read_plan`.
    """
    words = [sys.executable, "-m", "grpojax", "pipeline", os.path.abspath(file)]
    words += [] if out is None else ["--out", os.fspath(out)]
    options = {"job-name": plan.out.name or "grpojax", **plan.slurm}
    options |= {"array": f"0-{len(plan.cells) - 1}", "requeue": True}
    lines = [
        f"#SBATCH --{key}" if value is True else f"#SBATCH --{key}={value}"
        for key, value in options.items()
    ]
    task = "${SLURM_ARRAY_JOB_ID}_${SLURM_ARRAY_TASK_ID}"
    return "\n".join(
        [
            "#!/bin/bash",
            *lines,
            f"cd {shlex.quote(os.getcwd())}",
            f'{shlex.join(words)} --only "$SLURM_ARRAY_TASK_ID"',
            "code=$?",
            f'[ $code -eq {EXIT_PREEMPTED} ] && scontrol requeue "{task}"',
            "exit $code\n",
        ]
    )
