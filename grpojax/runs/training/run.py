"""The training loop of a prepared run: evaluations and train steps."""

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from jax.sharding import Mesh

from ...types import TrainState
from ..distributed import processes
from ..distributed.mesh import use
from ..distributed.preemption import Preemption
from ..evaluation.evaluate import Evaluation
from ..evaluation.printing import echo, print_result
from ..io.run_directory import RunDirectory
from ..tracking.build import TrackerFactory
from .checkpointing import CheckpointCallback
from .display import curve
from .display.progress import Progress
from .health import Thresholds
from .metrics_buffer import MetricsBuffer, StepRecord
from .run_log import ResumePoint, RunLog
from .settings import Checkpointing, Config, export_to, Logging
from .step import LoweredStep, validation_errors


class Prepared(NamedTuple):
    """A run that is loaded, checked and traced; nothing is compiled or written.

    In a multi-process run only process 0 has `directory`; all processes save to and
    restore from `checkpoints`. `start` is the start time, by `time.perf_counter`.
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


def run(prepared: Prepared) -> TrainState:
    """Runs the training loop of a prepared run; see `fit`."""
    with use(prepared.mesh):
        return _run(prepared)


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
    """Compiles the step and runs the remaining steps."""
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
        stack.enter_context(validation_errors())
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
    """Runs the evaluation, if any; prints a summary and records the result."""
    if run.evaluation is None:
        return

    def check_preemption(*_: int) -> None:
        if processes.any_process(preemption.requested):
            preemption.raise_preempted()

    predictions = None
    if run.directory is not None and run.logging.tokenizer is not None:
        predictions = run.directory.predictions(log.steps, run.evaluation.mode)
    result = run.evaluation.run(
        state.policy,
        predictions=predictions,
        tokenizer=run.logging.tokenizer,
        report=check_preemption,
    )
    print_result(result, run.logging.tokenizer, run.logging.console, when)
    log.evaluated(run.evaluation, result)
