"""The training loop of a prepared run: evaluations, train steps and checkpoints."""

import contextlib
import functools
from collections.abc import Callable, Iterator

from ..._train import averaged
from ...types import TrainState
from ..checkpoint.checkpoints import Checkpoints
from ..distributed import processes
from ..distributed.mesh import use
from ..distributed.preemption import PreemptedError, Preemption
from ..evaluation.printing import echo, print_result
from ..io.run_directory import AVERAGE, CHECKPOINTS, CURVE
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
        evaluate = functools.partial(_evaluate, run, log, preemption)
        state = run.state
        # A resumed run may have been killed before the evaluation of its checkpoint.
        evaluate(state, 0 if run.restored is None else run.restored.step)
        if run.steps > 0:
            state = _take_steps(run, log, preemption, evaluate)
            evaluate(state, run.steps)
        if run.out is not None:
            export = run.checkpoint.export or export_to(run.logging.tokenizer)
            export(state.policy, run.out)
            if state.average is not None:
                export(averaged(state), run.out / AVERAGE)
        if run.directory is not None:
            path = run.directory.path / CURVE
            curve.plot_curve(path, log.records, log.accuracies)
    where = "" if run.directory is None else f"; see {run.directory.path}"
    echo(
        console,
        f"{log.steps} steps in {log.seconds:.0f} s, of which compiling took "
        f"{log.seconds_compile:.0f} s{where}",
    )
    return state


def _take_steps(
    run: Prepared,
    log: RunLog,
    preemption: Preemption,
    evaluate: Callable[[TrainState, int], None],
) -> TrainState:
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
        stack.callback(compiled.close)
        save = stack.enter_context(_saving(run, log))
        bar = stack.enter_context(Progress(run.steps, run.logging.console))
        metrics = MetricsBuffer(report, every=run.logging.every)
        stack.enter_context(metrics)
        for number in range(first, run.steps + 1):
            state, values, samples = compiled.call(state)
            metrics.add(number, values, samples)
            # All processes exit after the same step, whichever received the signal.
            leave = processes.any_process(preemption.requested)
            evaluated = number < run.steps and bool(_due(run, number))
            if leave or evaluated or _is_saved(run, number):
                # Metrics are flushed before their state is saved or evaluated, and the
                # state is saved before the run exits.
                metrics.flush()
            if leave or _is_saved(run, number):
                save(number, state)
            if leave:
                preemption.raise_preempted()
            if log.stop is not None:
                raise DivergedError(log.stop)
            if evaluated:
                try:
                    evaluate(state, number)
                except PreemptedError:
                    save(number, state)
                    raise
                metrics.restart_clock()
    return state


def _is_saved(run: Prepared, step: int) -> bool:
    """Whether there is to be a checkpoint of a step."""
    every, (best_by, _) = run.checkpoint.every, run.checkpoint.split_best_by
    if every is None or run.out is None:
        return False
    scored = best_by is not None and best_by in _due(run, step)
    return scored or step == run.steps or step % every == 0


@contextlib.contextmanager
def _saving(run: Prepared, log: RunLog) -> Iterator[Callable[[int, TrainState], None]]:
    """A function that saves a state, if there are checkpoints.

    It does not if the last update was skipped or its loss not finite.
    """
    if run.out is None or run.checkpoint.every is None:
        yield lambda *_: None
        return
    with Checkpoints(
        run.out / CHECKPOINTS,
        keep_last=run.checkpoint.keep_last,
        keep_best=run.checkpoint.keep_best,
    ) as checkpoints:

        def save(step: int, state: TrainState) -> None:
            if not log.last_update_finite:
                return
            by, measure = run.checkpoint.split_best_by
            checkpoints.save(
                step,
                state,
                config=run.config.to_yaml(),
                metadata=run.metadata,
                files={} if run.directory is None else run.directory.snapshot(),
                score=log.records[-1].get("reward"),
                scores=None if by is None else log.scores(by, measure),
            )
            log.event("checkpoint", f"the state after step {step} is being saved")
            if run.directory is not None:
                run.directory.write_summary()

        yield save


def _due(run: Prepared, step: int) -> list[str]:
    """The evaluations that are made after a step."""
    return [
        name
        for name, evaluator in run.evaluators.items()
        if evaluator.evaluation.is_due(step, run.steps)
    ]


def _evaluate(
    run: Prepared, log: RunLog, preemption: Preemption, state: TrainState, step: int
) -> None:
    """Makes the evaluations of a step that are not recorded yet, and records them."""
    due, tokenizer = _due(run, step), run.logging.tokenizer
    if not due:
        return

    def check_preemption(*_: int) -> None:
        if processes.any_process(preemption.requested):
            preemption.raise_preempted()

    for name in processes.broadcast_from_0(lambda: log.unrecorded(due, step)):
        evaluator, predictions = run.evaluators[name], None
        if run.directory is not None and tokenizer is not None:
            mode = evaluator.evaluation.mode
            predictions = run.directory.predictions(step, mode, name)
        averages = evaluator.evaluation.average
        result = evaluator.run(
            averaged(state) if averages else state.policy,
            predictions=predictions,
            tokenizer=tokenizer,
            report=check_preemption,
            warn=log.warn,
        )
        when = {0: "before", run.steps: "after"}.get(step, f"at step {step}")
        print_result(result, tokenizer, run.logging.console, when, name)
        log.evaluated(name, evaluator.evaluation, result, step, predictions)
