"""The training loop `fit`: checkpoints, evaluation, logging and resume."""

import functools
import inspect
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import ParamSpec

from ...types import TrainState
from ..checkpoint.checkpoints import Checkpoints
from ..checkpoint.resume_check import check_resumable
from ..distributed import processes
from ..distributed.mesh import mesh_of, use
from ..evaluation.evaluate import Evaluation
from ..io.run_directory import CHECKPOINTS, RunDirectory
from ..tracking.build import TrackerFactory
from .health import Thresholds
from .run import Prepared, run
from .run_log import ResumePoint
from .settings import Checkpointing, Config, described, Logging
from .step import lower, Step


def prepare(
    state: TrainState,
    step: Step,
    *,
    steps: int,
    out: str | os.PathLike[str] | RunDirectory | None = None,
    resume: bool = False,
    evaluation: Evaluation | None = None,
    checkpoint: Checkpointing = Checkpointing(),
    trackers: Mapping[str, TrackerFactory] | None = None,
    health: Thresholds = Thresholds(),
    logging: Logging = Logging(),
    config: Config | None = None,
) -> Prepared:
    """A training run, with evaluation, checkpoints, logging and resume.

    `fit(...)` is `run(prepare(...))`: `prepare` validates its arguments
    before anything is compiled or written.

    The step is compiled once and donates the state, so the argument must not be used
    again. The mesh is taken from the state's arrays: place them by `sharding.place`.

    **Arguments:**

    - `state`: from `grpojax.init`.
    - `step`: a `TrainStep`, or any function `state -> (state, metrics)`.
    - `steps`: total number of steps, including those taken before a resume.
    - `out`: the run directory; nothing is written when `None`. For a `RunDirectory` the
        caller must already have called `check_config`.
    - `resume`: whether to continue the run in `out` from its last intact checkpoint.
        The state and all records except times are then bit-identical to those of an
        uninterrupted run.
    - `evaluation`: evaluation before and after training; none when `None`.
    - `checkpoint`: checkpoint frequency, retention, and export of the final policy.
    - `trackers`: experiment trackers by name; they need `out`.
    - `health`: thresholds at which the run warns or stops.
    - `logging`: logged metrics and completions, and console output.
    - `config`: the configuration that is saved, and compared on resume; by default
        derived from `step`.

    **Returns:** the state after the last step.

    **Raises:** from `prepare`, `ValueError`, `TypeError` or `OSError` for incompatible
    arguments, a directory in use, or a resumed run with another configuration;
    `PreemptedError` on SIGTERM or Ctrl-C, after a checkpoint if these are enabled;
    `DivergedError` after `health.skipped_steps` non-finite steps in a row.

    !!! example

        ```python
        step = TrainStep(env, optimizer, rollout=RolloutConfig(prompts=8, group=8))
        state = grpojax.fit(state, step, steps=100, out="out/run", resume=True)
        ```
    """
    start = time.perf_counter()
    if not isinstance(steps, int) or steps < 0:
        raise ValueError(f"fit: steps must be an integer, 0 or more. Received {steps}.")
    if trackers and out is None:
        raise ValueError(
            "fit: trackers keep their files in the run's directory. Received "
            f"{', '.join(trackers)} without one: pass `out`, or no trackers."
        )
    resume = processes.broadcast_from_0(lambda: resume)
    path = out.path if isinstance(out, RunDirectory) else out
    directory = out if isinstance(out, RunDirectory) else None
    # Only process 0 is given a `RunDirectory`; all processes must take the same branch.
    claimed = processes.broadcast_from_0(lambda: isinstance(out, RunDirectory))
    if not claimed:
        directory = processes.on_process_0(lambda: claim(path, resume=resume))
    if config is None:
        config = described(state, step, steps, evaluation)
    mesh = mesh_of(state)
    recorded = path is not None and logging.tokenizer is not None
    samples = logging.samples if recorded else 0
    checkpoints = None if path is None else Path(path) / CHECKPOINTS
    with use(mesh):
        lowered = lower(state, step, samples=samples)
        point = None
        if resume and checkpoints is not None:
            state, point = _restore(state, directory, checkpoints, config, claimed)
    return Prepared(
        state=state,
        step=lowered,
        steps=steps,
        directory=directory,
        checkpoints=checkpoints,
        resume=point,
        evaluation=evaluation,
        checkpoint=checkpoint,
        trackers=trackers or {},
        health=health,
        logging=logging,
        config=config,
        mesh=mesh,
        start=start,
    )


def claim(out: str | os.PathLike[str] | None, *, resume: bool) -> RunDirectory | None:
    """The run directory, checked to be free or resumable; `None` without `out`.

    **Raises:** as `RunDirectory`; `FileNotFoundError` if there is no run to resume.
    """
    if out is None:
        return None
    # Resuming a run that was never started starts it.
    started = (Path(out) / "config.yaml").exists()
    return RunDirectory(out, resume=resume and started)


def _restore(
    state: TrainState,
    directory: RunDirectory | None,
    checkpoints: Path,
    config: Config,
    checked: bool,
) -> tuple[TrainState, ResumePoint | None]:
    """State and resume point of the last intact checkpoint, if any."""
    started = processes.broadcast_from_0(
        lambda: directory is not None and directory.config.exists()
    )
    if not started:
        return state, None
    processes.on_process_0(lambda: directory and directory.lock())
    try:
        if not checked:
            check_config(directory, checkpoints.parent, config)
        with Checkpoints(checkpoints) as saved:
            if not processes.broadcast_from_0(saved.steps):
                return state, ResumePoint(0, {}, ())
            found = saved.restore(state)
    except BaseException:
        if directory is not None:
            directory.close()
        raise
    return found.state, ResumePoint(found.step, found.files, found.problems)


def check_config(
    directory: RunDirectory | None, out: str | os.PathLike[str], config: Config
) -> None:
    """Checks that a run may be resumed with a configuration.

    Compares with the configuration in its last checkpoint, as `config.yaml` may have
    been edited since. Needs no arrays, so it can be called before any are loaded.

    **Raises:** `ValueError` in all processes, with each key that differs.
    """

    def check() -> None:
        if directory is None or not directory.config.exists():
            return
        with Checkpoints(Path(out) / CHECKPOINTS) as saved:
            text, where = saved.saved_config(), "its last checkpoint"
        if not text:
            text = directory.config.read_text(encoding="utf-8")
            where = "its config.yaml"
        check_resumable(config.parse(text) or {}, config.values, where=where)

    processes.on_process_0(check)


_P = ParamSpec("_P")


def _then_run(prepare: Callable[_P, Prepared]) -> Callable[_P, TrainState]:
    @functools.wraps(prepare)
    def fit(*args: _P.args, **kwargs: _P.kwargs) -> TrainState:
        return run(prepare(*args, **kwargs))

    fit.__name__ = fit.__qualname__ = "fit"
    signature = inspect.signature(prepare)
    signature = signature.replace(return_annotation=TrainState)
    fit.__dict__["__signature__"] = signature
    return fit


fit = _then_run(prepare)
