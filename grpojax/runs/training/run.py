"""The training loop of a prepared run: evaluations, train steps and checkpoints."""

import contextlib

from ...types import TrainState
from ..checkpoint.checkpoints import Checkpoints
from ..distributed import processes
from ..distributed.mesh import use
from ..distributed.preemption import Preemption
from ..evaluation.printing import echo, print_result
from ..io.run_directory import CHECKPOINTS, CURVE
from .display import curve
from .display.progress import Progress
from .health import DivergedError
from .metrics_buffer import MetricsBuffer, StepRecord
from .run_log import RunLog
from .settings import export_to, Prepared
from .step import validation_errors


def run(prepared: Prepared) -> TrainState:
    """Runs the training loop of a prepared run; see `fit`."""
    with use(prepared.mesh):
        return _run(prepared)


def _run(run: Prepared) -> TrainState:
    console, log = run.logging.console, RunLog(run)
    if run.config.summary:
        echo(console, run.config.summary)
    with log.open(), Preemption() as preemption:
        state = run.state
        if run.resume is None or run.resume.step == 0:
            _evaluate(run, state, log, preemption, "before")
        if run.steps > 0:
            state = _take_steps(run, log, preemption)
            _evaluate(run, state, log, preemption, "after")
        if run.out is not None:
            export = run.checkpoint.export or export_to(run.logging.tokenizer)
            export(state.policy, run.out)
        if run.directory is not None:
            curve.plot_curve(
                run.directory.path / CURVE,
                log.records,
                before=log.accuracy(0),
                after=log.accuracy(run.steps),
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
    how = "read the step from the cache" if compiled.cached else "compiled the step"
    echo(run.logging.console, f"{how} in {compiled.seconds:.1f} s")

    def report(record: StepRecord) -> None:
        log.step(record)
        bar.update(record.step, record.metrics)

    with contextlib.ExitStack() as stack:
        stack.enter_context(validation_errors())
        checkpoints, every = None, run.checkpoint.every
        if run.out is not None and every is not None:
            checkpoints = Checkpoints(
                run.out / CHECKPOINTS,
                keep_last=run.checkpoint.keep_last,
                keep_best=run.checkpoint.keep_best,
            )
            stack.enter_context(checkpoints)
        bar = stack.enter_context(Progress(run.steps, run.logging.console))
        metrics = MetricsBuffer(report, every=run.logging.every)
        stack.enter_context(metrics)
        for number in range(first, run.steps + 1):
            state, values, samples = compiled.call(state)
            metrics.add(number, values, samples)
            # All processes exit after the same step, whichever received the signal.
            leave = processes.any_process(preemption.requested)
            due = leave or number == run.steps or (every and number % every == 0)
            if checkpoints is not None and due:
                # Metrics are flushed before their state is saved, and the state is
                # saved before the run exits.
                metrics.flush()
                _save(run, log, checkpoints, number, state)
            if leave:
                metrics.flush()
                preemption.raise_preempted()
            if log.stop is not None:
                raise DivergedError(log.stop)
    return state


def _save(
    run: Prepared,
    log: RunLog,
    checkpoints: Checkpoints,
    step: int,
    state: TrainState,
) -> None:
    """Saves the state, unless its last update was skipped or its loss not finite."""
    if not log.last_update_finite:
        return
    files = {} if run.directory is None else run.directory.snapshot()
    checkpoints.save(
        step,
        state,
        config=run.config.to_yaml(),
        metadata=run.metadata,
        files=files,
        score=log.records[-1].get("reward"),
    )
    log.event("checkpoint", f"the state after step {step} is being saved")


def _evaluate(
    run: Prepared, state: TrainState, log: RunLog, preemption: Preemption, when: str
) -> None:
    """Runs the evaluation, if any; prints a summary and records the result."""
    if run.evaluation is None:
        return

    def check_preemption(*_: int) -> None:
        if processes.any_process(preemption.requested):
            preemption.raise_preempted()

    tokenizer, predictions = run.logging.tokenizer, None
    if run.directory is not None and tokenizer is not None:
        predictions = run.directory.predictions(log.steps, run.evaluation.mode)
    result = run.evaluation.run(
        state.policy,
        predictions=predictions,
        tokenizer=tokenizer,
        report=check_preemption,
    )
    print_result(result, tokenizer, run.logging.console, when)
    log.evaluated(run.evaluation, result)
