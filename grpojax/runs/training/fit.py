"""Training as a function of values: checkpoints, evaluations, logs and resume."""

import contextlib
import dataclasses
import functools
import logging
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple, ParamSpec

import yaml
from jax.sharding import Mesh
from rich.console import Console

from ... import models
from ..._train import TrainStep
from ...policy import AbstractPolicy
from ...text import AbstractTokenizer
from ...types import TrainState
from ..checkpoint.checkpoints import Checkpoints
from ..checkpoint.resume_check import check_resumable
from ..distributed import processes
from ..distributed.mesh import mesh_of, use
from ..distributed.preemption import Preemption
from ..evaluation.evaluate import Evaluation
from ..evaluation.printing import echo, print_result
from ..io.description import describe, describe_arrays
from ..io.run_directory import ADAPTER, CHECKPOINTS, MODEL, RunDirectory
from ..tracking.build import TrackerFactory
from . import curve
from .checkpointing import CheckpointCallback, Checkpointing, Export
from .health import Thresholds
from .metrics_buffer import MetricsBuffer, StepRecord
from .progress import Progress
from .run_log import ResumePoint, RunLog
from .step import lower, LoweredStep, Step


logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Logging:
    """What `fit` records and shows while it runs.

    **Fields:**

    - `every`: steps whose metrics are read from the device together.
    - `samples`: prompts whose completions are recorded each time; 0 for none.
    - `tokenizer`: decodes completions; without one none are recorded.
    - `console`: shows progress; nowhere by default.

    **Raises:** `ValueError` for counts that are too small.
    """

    every: int = 1
    samples: int = 2
    tokenizer: AbstractTokenizer | None = None
    console: Console = dataclasses.field(default_factory=lambda: Console(quiet=True))

    def __post_init__(self):
        if self.every < 1 or self.samples < 0:
            raise ValueError(
                "Logging(every=..., samples=...): `every` is at least 1 and `samples` "
                f"at least 0. Received every={self.every}, samples={self.samples}."
            )


@dataclasses.dataclass(frozen=True)
class Config:
    """What a run computes: written to its directory, and compared when it is resumed.

    **Fields:**

    - `values`: names and plain values, nested.
    - `parse`: from the YAML of a run to its `values`.
    - `summary`: what is shown when a run starts, a few lines.
    - `text`: the values as YAML, if it has a format of its own.
    """

    values: Mapping[str, object]
    parse: Callable[[str], Mapping[str, object]] = yaml.safe_load
    summary: str = ""
    text: str | None = None

    def to_yaml(self) -> str:
        """The values as YAML."""
        if self.text is not None:
            return self.text
        return yaml.safe_dump(dict(self.values), sort_keys=False, allow_unicode=True)


class Prepared(NamedTuple):
    """A run that is loaded, checked and traced; nothing is compiled or written.

    In a run of several processes only the first has a directory; all of them save and
    restore the state, in `checkpoints`. `start` is when it began, by
    `time.perf_counter`.
    """

    state: TrainState
    step: LoweredStep
    steps: int
    directory: RunDirectory | None
    checkpoints: Path | None
    resume: ResumePoint | None
    evaluation: Evaluation | None
    checkpoint: Checkpointing
    trackers: Mapping[str, TrackerFactory]
    health: Thresholds
    logging: Logging
    config: Config
    mesh: Mesh | None
    start: float


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
    resume = processes.broadcast_from_0(lambda: resume)
    path = out.path if isinstance(out, RunDirectory) else out
    directory = out if isinstance(out, RunDirectory) else None
    # In a run of several processes only the first has a directory that is claimed.
    claimed = processes.broadcast_from_0(lambda: isinstance(out, RunDirectory))
    if not claimed:
        directory = processes.on_process_0(lambda: claim(path, resume=resume))
    if config is None:
        config = _described(state, step, steps, evaluation)
    mesh = mesh_of(state)
    samples = logging.samples if logging.tokenizer is not None else 0
    checkpoints = None if path is None else Path(path) / CHECKPOINTS
    with use(mesh):
        lowered = lower(state, step, samples=samples)
        point = None
        if resume and checkpoints is not None:
            state, point = _restore(
                state,
                directory,
                checkpoints,
                config,
                checked=claimed,
            )
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


def _described(
    state: TrainState, step: Step, steps: int, evaluation: Evaluation | None
) -> Config:
    """The configuration of a run without a recipe: names and plain values."""
    parts = vars(step) if isinstance(step, TrainStep) else {"step": step}
    if evaluation is not None:
        parts = {**parts, "evaluation": evaluation}
    described = {name: describe(part) for name, part in parts.items()}
    values = {"steps": steps, "policy": describe(state.policy), **described}
    values["arrays"] = describe_arrays(parts)
    return Config(values)


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
    *,
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


def run(prepared: Prepared) -> TrainState:
    """Takes the steps of a prepared run; see `fit`."""
    with use(prepared.mesh):
        return _run(prepared)


_P = ParamSpec("_P")


def _then_run(prepare: Callable[_P, Prepared]) -> Callable[_P, TrainState]:
    @functools.wraps(prepare)
    def fit(*args: _P.args, **kwargs: _P.kwargs) -> TrainState:
        return run(prepare(*args, **kwargs))

    fit.__name__ = fit.__qualname__ = "fit"
    return fit


fit = _then_run(prepare)


def _run(run: Prepared) -> TrainState:
    console = run.logging.console
    if run.config.summary:
        echo(console, run.config.summary)
    log = RunLog(
        run.directory,
        config=run.config.to_yaml(),
        steps=run.steps,
        thresholds=run.health,
        tokenizer=run.logging.tokenizer,
        start=run.start,
    )
    begins = run.resume is None or run.resume.step == 0
    opened = log.open(run.resume, run.trackers, run.config.values)
    with opened, Preemption() as preemption:
        state = run.state
        if begins:
            _evaluate(run, state, log, preemption, "before")
        if run.steps > 0:
            state = _take_steps(run, log, preemption)
            _evaluate(run, state, log, preemption, "after")
        if run.checkpoints is not None:
            export = run.checkpoint.export or export_to(run.logging.tokenizer)
            export(state.policy, run.checkpoints.parent)
        if run.directory is not None:
            curve.plot_curve(
                run.directory.curve,
                log.records,
                before=log.accuracy("before"),
                after=log.accuracy("after"),
            )
    where = "" if run.directory is None else f"; see {run.directory.path}"
    echo(
        console,
        f"{log.steps} steps in {log.seconds:.0f} s, of which compiling took "
        f"{log.seconds_compile:.0f} s{where}",
    )
    return state


def _take_steps(run: Prepared, log: RunLog, preemption: Preemption) -> TrainState:
    """Compiles the step and takes all that remain."""
    state, first = run.state, int(run.state.version) + 1
    if first > run.steps:
        return state
    compiled = run.step.compile()
    log.seconds_compile += compiled.seconds
    echo(run.logging.console, f"compiled the step in {compiled.seconds:.1f} s")

    def report(record: StepRecord) -> None:
        log.step(record)
        bar.update(record.step, record.metrics)

    with contextlib.ExitStack() as stack:
        callback = stack.enter_context(
            CheckpointCallback(
                run.checkpoint,
                run.directory,
                run.checkpoints,
                run.steps,
                log,
                preemption,
            )
        )
        bar = stack.enter_context(Progress(run.steps, run.logging.console))
        metrics = MetricsBuffer(report, every=run.logging.every)
        stack.enter_context(metrics)
        for number in range(first, run.steps + 1):
            state, values, samples = compiled.call(state)
            metrics.add(number, values, samples)
            callback.on_step_end(number, state, metrics)
    return state


def _evaluate(
    run: Prepared, state: TrainState, log: RunLog, preemption: Preemption, when: str
) -> None:
    """Evaluates the policy, if there is an evaluation, and prints some of it."""
    if run.evaluation is None:
        return

    def report(*_: int) -> None:
        if processes.any_process(preemption.requested):
            preemption.raise_preempted()

    predictions = None
    if run.directory is not None and run.logging.tokenizer is not None:
        predictions = run.directory.predictions(log.steps, run.evaluation.mode)
    result = run.evaluation.run(
        state.policy,
        predictions=predictions,
        tokenizer=run.logging.tokenizer,
        report=report,
    )
    print_result(result, run.logging.tokenizer, run.logging.console, when)
    log.evaluated(run.evaluation, result)


def export_to(
    tokenizer: AbstractTokenizer | None, *, base: str | None = None
) -> Export:
    """An export in Hugging Face's format, and of adapters in PEFT's as well.

    Policies that are none of `grpojax.models` are not exported: their checkpoints hold
    them.

    **Arguments:**

    - `tokenizer`: written beside the weights.
    - `base`: the model that adapters were trained on, as their file names it.
    """

    def export(policy: AbstractPolicy, directory: Path) -> None:
        if not isinstance(policy, models.Transformer):
            logger.info("the policy has no export: its checkpoints hold it")
            return
        if models.adapters(policy):
            models.save_adapters(policy, directory / ADAPTER, base=base)
        models.save(models.merge(policy), directory / MODEL, tokenizer=tokenizer)

    return export
