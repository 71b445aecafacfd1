"""Training as a function of values: checkpoints, evaluations, logs and resume."""

import functools
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
    """A training run: evaluations, steps, checkpoints and records.

    `fit(...)` is `run(prepare(...))`: what can be refused is refused by `prepare`,
    before anything is compiled or written.

    The program is compiled once, and donates the state: the one that was given must not
    be used again. On a mesh, arrays of the state decide which: `sharding.place` them.

    **Arguments:**

    - `state`: from `grpojax.init`.
    - `step`: a `TrainStep`, or any function `state -> (state, metrics)`.
    - `steps`: how many steps the run will have taken, those included that it resumes.
    - `out`: the run's directory; nothing is written without one. Of a `RunDirectory`
        the caller has called `check_config`.
    - `resume`: whether to continue the run in `out` from its last good checkpoint. The
        state and every record but times are then those of a run that was never
        interrupted, bit for bit.
    - `evaluation`: the problems that the policy is evaluated on before and after.
    - `checkpoint`: how often the state is saved, and how the final policy is exported.
    - `trackers`: experiment trackers by name, besides the run's directory.
    - `health`: when the run warns, or stops.
    - `logging`: what is recorded and shown.
    - `config`: what the run computes; by default a description of `step`.

    **Returns:** the state after the last step.

    **Raises:** `ValueError`, `TypeError` or `OSError` for values that do not fit
    together, for a directory in use, and for a run that computed something else, all
    by `prepare`; `PreemptedError` on SIGTERM or Ctrl-C, after the state was saved;
    `DivergedError` when updates are not finite.

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
    # In a run of several processes only the first has a directory that is claimed.
    claimed = processes.broadcast_from_0(lambda: isinstance(out, RunDirectory))
    if not claimed:
        directory = processes.on_process_0(lambda: claim(path, resume=resume))
    if config is None:
        config = described(state, step, steps, evaluation)
    mesh = mesh_of(state)
    samples = logging.samples if logging.tokenizer is not None else 0
    checkpoints = None if path is None else Path(path) / CHECKPOINTS
    with use(mesh):
        lowered = lower(state, step, samples=samples)
        point = None
        if resume and checkpoints is not None:
            state, point = _restore(state, directory, checkpoints, config, claimed)
    return Prepared(
        state,
        lowered,
        steps,
        directory,
        checkpoints,
        point,
        evaluation,
        checkpoint,
        trackers or {},
        health,
        logging,
        config,
        mesh,
        start,
    )


def claim(out: str | os.PathLike[str] | None, *, resume: bool) -> RunDirectory | None:
    """The directory of a run, if the run may have it.

    **Raises:** as `RunDirectory`; `FileNotFoundError` if there is no run to resume.
    """
    if out is None:
        return None
    # A run to resume that has not been started is started.
    started = (Path(out) / "config.yaml").exists()
    return RunDirectory(out, resume=resume and started)


def _restore(
    state: TrainState,
    directory: RunDirectory | None,
    checkpoints: Path,
    config: Config,
    checked: bool,
) -> tuple[TrainState, ResumePoint | None]:
    """The state of the last good checkpoint, if there is one."""
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

    What counts is what its last checkpoint has saved; `config.yaml` may have been
    edited since. Takes no arrays, so that it can be called before any are loaded.

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
    return fit


fit = _then_run(prepare)
