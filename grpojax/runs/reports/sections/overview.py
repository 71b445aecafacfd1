"""The top of a run's report: configuration, result, uncertainty, duration."""

from collections.abc import Sequence

from ...evaluation.statistics import Measure
from ...io.records import finite_float
from ..analysis import Changes, measure_changes
from ..document import (
    Block,
    Bullets,
    Callout,
    Code,
    Heading,
    Line,
    Paragraph,
    Strong,
    Table,
    Verbatim,
)
from ..read import EvaluationRecord, Run
from . import commands
from .configuration import seed, summary
from .wording import change_sentence, percent, percent_interval


_INTERRUPTED = ("failed", "stopped", "preempted")
_ROUTINE = ("start", "checkpoint", "finish")
_MAX_EVENTS = 20


def overview(run: Run) -> list[Block]:
    """Everything above the curves."""
    changes = measure_changes(run)
    result = [[*summary(run), *seed(run)], *_result(run, changes)]
    return [
        Heading(1, f"Run {run.path.resolve().name}"),
        *status(run),
        Callout(_result_kind(run, changes), result),
        *_evaluation_table(run.evaluations),
        *_uncertainty(run, changes),
        Heading(2, "Duration and next steps"),
        *_duration(run),
        *_next_steps(run),
        *_flaws(run),
    ]


def status(run: Run) -> list[Block]:
    """A warning for a run that did not finish; nothing for one that did."""
    if run.complete:
        recorded = finite_float(run.summary.get("steps"))
        steps = run.steps or 0 if recorded is None else int(recorded)
        if run.last_step >= steps:
            return []
        text = (
            f" Its summary says complete after {steps} steps, but its metrics end at "
            f"step {run.last_step}."
        )
        return [Callout("alarm", [[Strong("This run is inconsistent."), text]])]
    progress = f" Its last step is {run.progress}. "
    unfinished = Strong("This run did not finish.")
    return [Callout("alarm", [[unfinished, progress, _reason(run)]])]


def _reason(run: Run) -> str:
    """Why a run ended, as far as it is recorded."""
    events = [event for event in run.events if event.kind != "checkpoint"]
    if events and events[-1].kind in _INTERRUPTED:
        event = events[-1]
        why = f": {event.message.rstrip('.')}" if event.message else ""
        return f"It was {event.kind} at step {event.step}{why}."
    recorded = run.summary.get("status")
    if recorded in _INTERRUPTED:
        return f"It was {recorded}; no event records why."
    return "It is still running, or was killed: no event records its end."


def _result_kind(run: Run, changes: Changes) -> str:
    measured = changes.measured
    good = run.complete and measured and measured[0].direction > 0
    return "good" if good else "plain"


def _result(run: Run, changes: Changes) -> list[Line]:
    lines: list[Line] = [change_sentence(change) for change in changes.measured]
    if not lines:
        lines.append([Strong("Whether accuracy improved is not known.")])
    elif not run.complete:
        lines.append("This is an intermediate result: the run did not finish.")
    elif (last := changes.measured[0].after.step) < run.last_step:
        lines.append(
            f"The last evaluation was at step {last}, not at step {run.last_step}."
        )
    return [*lines, *changes.refusals, *_baselines(changes)]


def _baselines(changes: Changes) -> list[Line]:
    """The trivial baselines, each compared with the accuracy after training."""
    lines: list[Line] = []
    for change in changes.measured:
        after = change.after
        if not after.baselines:
            lines.append(f"No trivial baseline was recorded ({after.label}).")
        for name, baseline in after.baselines.items():
            lines.append(_baseline(after.accuracy, name, baseline))
    return lines


def _baseline(accuracy: Measure, name: str, baseline: Measure) -> Line:
    verdict = "does not differ significantly from it: the intervals overlap"
    if accuracy.interval[0] > baseline.interval[1]:
        verdict = "is above it: the intervals do not overlap"
    elif accuracy.interval[1] < baseline.interval[0]:
        verdict = "is below it: the intervals do not overlap"
    return [
        "Trivial baseline ",
        Code(name),
        f": {percent(baseline.value)} ({percent_interval(baseline.interval)}, n = "
        f"{baseline.n:,}). The accuracy after training {verdict}.",
    ]


def _evaluation_table(evaluations: Sequence[EvaluationRecord]) -> list[Block]:
    """Every number of every evaluation, with its n and interval."""
    if not evaluations:
        return []
    rows: list[list[Line]] = []
    for evaluation in evaluations:
        measures = {"accuracy": evaluation.accuracy, **evaluation.metrics}
        for name, baseline in evaluation.baselines.items():
            measures[f"baseline {name}"] = baseline
        for name, measure in measures.items():
            low, high = (f"{end:.4f}" for end in measure.interval)
            cells = [f"{evaluation.step}", evaluation.label, name]
            rows.append([*cells, f"{measure.value:.4f}", low, high, f"{measure.n:,}"])
    header = ["step", "evaluation", "number", "value", "95% from", "to", "n"]
    return [Heading(2, "Evaluations"), Table(header, rows, texts=3)]


def _uncertainty(run: Run, changes: Changes) -> list[Block]:
    lines: list[Line] = []
    if changes.measured:
        lines.append(
            "This is one run from one seed. The intervals cover the choice of problems "
            "and completions, not the variance between seeds: report several seeds "
            "together for that."
        )
    if any(evaluation.step > 0 for evaluation in run.evaluations):
        lines.append(
            "The accuracy after training is that of the last evaluation, not of the "
            "best one, which would be biased upwards."
        )
    recorded = finite_float(run.summary.get("accuracy_after"))
    last = [x.accuracy.value for x in run.evaluations if x.step == run.last_step]
    if recorded is not None and all(abs(recorded - value) > 1e-9 for value in last):
        lines.append(
            f"The summary records {percent(recorded)} after training, unlike every "
            "evaluation of the last step: one of the two files is not of this run."
        )
    return [Heading(2, "Uncertainty"), Bullets(lines)] if lines else []


def _duration(run: Run) -> list[Block]:
    total = finite_float(run.summary.get("seconds_total"))
    compile_time = finite_float(run.summary.get("seconds_compile"))
    text = f"{run.progress} steps"
    if total is not None:
        text += f" in {total:,.1f} s"
    elif run.metrics and (last := run.metrics[-1].get("time")) is not None:
        text += f"; the last one ended {last:,.1f} s after the start"
    if compile_time is not None:
        text += f"; compilation took {compile_time:,.1f} s"
    kinds = [event.kind for event in run.events]
    text += f". Resumes: {kinds.count('resume')}. Warnings: {kinds.count('warning')}."
    lines: list[Line] = [
        f"step {event.step}, {event.kind}: {event.message}"
        for event in run.events
        if event.kind not in _ROUTINE
    ]
    return [Paragraph(text), *([Bullets(lines[-_MAX_EVENTS:])] if lines else [])]


def _next_steps(run: Run) -> list[Block]:
    """How to resume, evaluate or repeat a run, by the command line if that can."""
    blocks: list[Block] = []
    if not run.complete:
        kept = "No checkpoint was kept."
        if run.checkpoints:
            kept = f"Checkpoints of step {', '.join(map(str, run.checkpoints))}."
        if run.has_recipe:
            blocks.append(Paragraph(f"{kept} Resume with"))
            blocks.append(Verbatim(commands.resume(run.path)))
        else:
            call = Code("grpojax.fit(..., resume=True)")
            line = [f"{kept} Resume with the script that started it: ", call, "."]
            blocks.append(Paragraph(line))
    if run.has_model and run.has_recipe:
        blocks.append(Paragraph("The trained model was saved. Evaluate it again with"))
        blocks.append(Verbatim(commands.evaluate(run.path)))
    elif run.has_model:
        path = Code(str(run.path / "model"))
        blocks.append(Paragraph(["The trained model was saved in ", path, "."]))
    if run.complete and run.has_recipe:
        blocks.append(Paragraph("The run is finished. Repeat it with"))
        blocks.append(Verbatim(commands.repeat(run.path)))
    return blocks


def _flaws(run: Run) -> list[Block]:
    if not run.flaws:
        return []
    lines = [_with_code(flaw) for flaw in run.flaws]
    return [Heading(2, "Missing or damaged"), Bullets(lines)]


def _with_code(text: str) -> Line:
    """Parts between backticks as code."""
    return [
        Code(part) if index % 2 else part for index, part in enumerate(text.split("`"))
    ]
