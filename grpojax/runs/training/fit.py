"""The training loop `fit`: checkpoints, evaluation, logging and resume."""

import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..._checks import check_counts, check_parts
from ..._train import averaged, SupervisedStep, TrainStep
from ...env import AbstractDatasetEnvironment, AbstractEnvironment
from ...host import AbstractHostEnvironment
from ...reward import RewardFn
from ...reward.split import host_rewards
from ...types import TrainState
from ..checkpoint.checkpoints import Checkpoints, Restored
from ..checkpoint.files import saved_config
from ..checkpoint.resume_check import check_digests, check_resumable
from ..distributed import processes
from ..distributed.mesh import check_bits, mesh_of, use
from ..evaluation.evaluate import Evaluation, named
from ..evaluation.evaluator import evaluations_of, Evaluator
from ..io.description import describe_arrays, digest_columns
from ..io.run_directory import CHECKPOINTS, CONFIG, RunDirectory
from ..tracking.build import TrackerFactory
from .health import Thresholds
from .run import run
from .settings import (
    Checkpointing,
    Config,
    described,
    Logging,
    Prepared,
    with_signature_of,
)
from .step import lower, LoweredStep, Step


def prepare(
    state: TrainState,
    step: Step | LoweredStep,
    *,
    steps: int,
    out: str | os.PathLike[str] | None = None,
    resume: bool = False,
    evaluation: Evaluation | Mapping[str, Evaluation | Evaluator] | None = None,
    checkpoint: Checkpointing = Checkpointing(),
    trackers: Mapping[str, TrackerFactory] | None = None,
    health: Thresholds = Thresholds(),
    logging: Logging = Logging(),
    config: Config | None = None,
) -> Prepared:
    """A run that is checked and traced, for `run`: the first half of `fit`.

    Its step is not compiled and no record is written. A directory that is resumed is
    locked. The arguments and errors are those of `fit`. A step and evaluations of
    another prepared run, with their programs, are taken as they are.
    """
    start, lowered = time.perf_counter(), None
    if isinstance(step, LoweredStep):
        lowered, step = step, step.step
    check_counts("fit", 0, steps=steps)
    check_parts("fit", step=step)
    check_bits()
    if out is None:
        _check_without_out(resume, trackers or {})
    given = named(evaluation)
    evaluations = evaluations_of(given)
    check_best_by(checkpoint, evaluations)
    if any(x.average for x in evaluations.values()):
        averaged(state)
    if config is None:
        config = described(state, step, steps, evaluations)
    directory = claim(out, resume=resume, config=config)
    mesh = mesh_of(state)
    recorded = out is not None and logging.tokenizer is not None
    with use(mesh):
        samples = logging.samples if recorded else 0
        lowered = lowered or lower(state, step, samples=samples, steps=steps)
        lowered.dry_call()
        digests = digests_of(state, step, evaluations)
        evaluators = {x: Evaluator.of(y, state.policy) for x, y in given.items()}
        check_measure(checkpoint, evaluators, state)
        restored = None
        if out is not None:
            restored = _restore(state, directory, Path(out), digests, steps)
    return Prepared(
        state=state if restored is None else restored.state,
        step=lowered,
        steps=steps,
        out=None if out is None else Path(out),
        directory=directory,
        restored=restored,
        evaluators=evaluators,
        checkpoint=checkpoint,
        trackers=trackers or {},
        health=health,
        logging=logging,
        config=config,
        mesh=mesh,
        start=start,
        metadata={"digests": digests, "today": config.today},
    )


def _check_without_out(resume: bool, trackers: Mapping[str, TrackerFactory]) -> None:
    """Raises a `ValueError` for what needs the run directory that there is not."""
    if resume:
        raise ValueError(
            "fit: a run resumes from the checkpoints in its directory. Received "
            "resume=True without one: pass `out`."
        )
    if trackers:
        raise ValueError(
            "fit: trackers keep their files in the run's directory. Received "
            f"{', '.join(trackers)} without one: pass `out`, or no trackers."
        )


def digests_of(
    state: TrainState, step: Step, evaluations: Mapping[str, Evaluation]
) -> dict[str, str]:
    """Fingerprints of what a run starts from, which its checkpoints keep."""
    parts: dict[str, object] = {"model": state.policy}
    columns = {}
    for name, x in evaluations.items():
        columns |= _read_columns(f"evaluations/{name}", x.env, x.reward)
    if isinstance(step, TrainStep):
        parts["data"] = step.env
        if step.teacher is not None:
            parts["teacher"] = step.teacher
        columns |= _read_columns("data", step.env, step.reward)
    elif isinstance(step, SupervisedStep):
        parts["data"] = step.demonstrations
    if evaluations:
        parts["evaluation"] = {name: x.env for name, x in evaluations.items()}
    texts = {"columns": digest_columns(columns)} if columns else {}
    return describe_arrays(parts) | texts


def _read_columns(
    name: str, env: AbstractEnvironment, reward: RewardFn | None
) -> dict[str, Sequence[object]]:
    """The columns that Python reads, for rewards or turns, which are in no array."""
    rows = env.rows if isinstance(env, AbstractDatasetEnvironment) else None
    hosts = host_rewards(reward)
    reset = isinstance(env, AbstractHostEnvironment) and env.pays
    return {
        f"{name}/{column}": values
        for column, values in (rows or {}).items()
        if reset or any(host.reads(column) for host in hosts)
    }


def check_best_by(
    checkpoint: Checkpointing, evaluations: Mapping[str, Evaluation]
) -> None:
    """Raises a `ValueError` unless `best_by` names an evaluation that is repeated."""
    name, _ = checkpoint.split_best_by
    if name is None or (name in evaluations and evaluations[name].every is not None):
        return
    fault = "is never made during the run: set its `every`"
    if name not in evaluations:
        known = ", ".join(evaluations)
        fault = f"is none of {known}" if known else "does not exist: there are none"
    raise ValueError(
        "checkpoint: `best_by` names an evaluation that is made every so many steps. "
        f"Received {checkpoint.best_by!r}, and {name!r} {fault}."
    )


def check_measure(
    checkpoint: Checkpointing, evaluators: Mapping[str, Evaluator], state: TrainState
) -> None:
    """Raises a `ValueError` unless the evaluation has the measure in `best_by`."""
    name, measure = checkpoint.split_best_by
    if name is None or measure is None:
        return
    known = evaluators[name].measures(state.policy)
    if measure not in known:
        raise ValueError(
            f"checkpoint: `best_by` names a measure of the evaluation {name!r}, which "
            f"has {', '.join(known)}. Received {checkpoint.best_by!r}."
        )


def claim(
    out: str | os.PathLike[str] | None, *, resume: bool, config: Config
) -> RunDirectory | None:
    """The run directory, checked to be free or resumable with a configuration.

    Needs no arrays, so that it can be called before any are loaded, too. Collective:
    only process 0 gets the directory, and all processes get its errors.

    **Raises:** as `RunDirectory`; `ValueError` with each key that differs from the
    configuration in the last checkpoint, as `config.yaml` may have been edited since.
    """

    def check() -> RunDirectory | None:
        if out is None:
            return None
        # Resuming a run that was never started starts it.
        started = resume and (Path(out) / CONFIG).exists()
        directory = RunDirectory(out, resume=started)
        if started:
            text, where = saved_config(Path(out) / CHECKPOINTS), "its last checkpoint"
            if not text:
                text = directory.config.read_text(encoding="utf-8")
                where = "its config.yaml"
            check_resumable(config.parse(text) or {}, config.values, where=where)
        return directory

    return processes.on_process_0(check)


def _restore(
    state: TrainState,
    directory: RunDirectory | None,
    out: Path,
    digests: Mapping[str, str],
    steps: int,
) -> Restored | None:
    """What the last intact checkpoint holds; `None` for a run that starts.

    **Raises:** as `Checkpoints.restore`; `ValueError` if that is a state after more
    than `steps`.
    """

    def lock() -> bool:
        if directory is None or not directory.resumes:
            return False
        directory.lock()
        return True

    if not processes.broadcast_from_0(lock):
        return None
    try:
        with Checkpoints(out / CHECKPOINTS) as saved:
            if not processes.broadcast_from_0(saved.steps):
                return Restored(state)
            restored = saved.restore(state)
            check_digests(restored.metadata.get("digests"), digests)
            if steps < restored.step:
                raise ValueError(
                    f"A run goes on to a later step. Received {steps} steps, and "
                    f"{os.fspath(out)!r} has taken {restored.step}: set run.steps to "
                    f"{restored.step} or more; or to go back, start another run from "
                    "one of its checkpoints."
                )
            return restored
    except BaseException:
        if directory is not None:
            directory.close()
        raise


@with_signature_of(prepare)
def fit(*args: Any, **kwargs: Any) -> TrainState:
    """A training run, with evaluation, checkpoints, logging and resume.

    `fit(...)` is `run(prepare(...))`: arguments are checked before the step is
    compiled or a record is written.

    The step is compiled once and donates the state, so the argument must not be used
    again. The mesh is taken from the state's arrays: place them by `sharding.place`.

    **Arguments:**

    - `state`: from `grpojax.init`.
    - `step`: a `TrainStep`, or any function `state -> (state, metrics)`.
    - `steps`: total number of steps, including those taken before a resume.
    - `out`: the run directory; nothing is written when `None`.
    - `resume`: whether to continue the run in `out` from its last intact checkpoint.
        The state and all records except times are then bit-identical to those of an
        uninterrupted run.
    - `evaluation`: evaluations by name, or a single one; before and after training, and
        meanwhile if they say so. The first one sums up the run. None when `None`.
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
    `DivergedError` after `health.skipped_steps` non-finite steps in a row, or
    `health.reward_failures` in which a reward function failed on every row.

    !!! example

        ```python
        step = TrainStep(env, optimizer, rollout=RolloutConfig(prompts=8, group=8))
        state = grpojax.fit(state, step, steps=100, out="out/run", resume=True)
        ```
    """
    return run(prepare(*args, **kwargs))
