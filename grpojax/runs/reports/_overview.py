"""The top of a run's report: what, whether, how sure, how long, and how to go on."""

from collections.abc import Sequence

from . import _commands as commands
from ._document import (
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
from ._evaluations import Evaluation, Measure
from ._lines import number
from ._panels import describe
from ._read import Run
from ._recipe import seed, subject
from ._verdict import judge, percent, percents, sentence, Verdict


_REASONS = ("failed", "stopped", "preempted")


def overview(run: Run) -> list[Block]:
    """Everything above the curves."""
    verdict = judge(run)
    result = [[*subject(run), *seed(run)], *_result(run, verdict)]
    return [
        Heading(1, f"Run {run.path.resolve().name}"),
        *status(run),
        Callout(_tone(run, verdict), result),
        *_evaluations(run.evaluations),
        *_certainty(run, verdict),
        Heading(2, "How long, and how to continue"),
        *_duration(run),
        *_continue(run),
        *_flaws(run),
    ]


def status(run: Run) -> list[Block]:
    """An alarm for a run that did not finish, and nothing for one that did."""
    if run.complete:
        taken = number(run.summary.get("steps"))
        taken = run.steps or 0 if taken is None else int(taken)
        if run.last_step >= taken:
            return []
        text = (
            f" It says that it is complete after {taken} steps, but its metrics end at "
            f"step {run.last_step}."
        )
        return [Callout("alarm", [[Strong("This run contradicts itself."), text]])]
    of = "" if run.steps is None else f" of {run.steps}"
    where = f" Its last step is {run.last_step}{of}. "
    return [
        Callout("alarm", [[Strong("This run did not finish."), where, _reason(run)]])
    ]


def _reason(run: Run) -> str:
    """Why a run ended, as far as it could say so itself."""
    since = [event for event in run.events if event.kind != "checkpoint"]
    if since and since[-1].kind in _REASONS:
        event = since[-1]
        why = f": {event.message.rstrip('.')}" if event.message else ""
        return f"It was {event.kind} at step {event.step}{why}."
    said = run.summary.get("status")
    if said in _REASONS:
        return f"It was {said}; no event says why."
    return "It is still running, or was killed: no event says that it ended."


def _tone(run: Run, verdict: Verdict) -> str:
    good = run.complete and verdict.changes and verdict.changes[0].direction > 0
    return "good" if good else "plain"


def _result(run: Run, verdict: Verdict) -> list[Line]:
    lines: list[Line] = [sentence(change) for change in verdict.changes]
    if not lines:
        lines.append([Strong("Whether it worked cannot be said.")])
    if lines and verdict.changes and not run.complete:
        lines.append("This is how far it got, not the result of the whole recipe.")
    elif verdict.changes and (last := verdict.changes[0].after.step) < run.last_step:
        lines.append(
            f"The last evaluation is of step {last}, not of step {run.last_step}."
        )
    return [*lines, *verdict.refusals, *_beside(verdict)]


def _beside(verdict: Verdict) -> list[Line]:
    """The trivial baselines, each against the accuracy after training."""
    lines: list[Line] = []
    for change in verdict.changes:
        after = change.after
        if not after.baselines:
            lines.append(
                f"No trivial baseline was recorded beside it ({describe(after)})."
            )
        for name, baseline in after.baselines.items():
            lines.append(_against(after.accuracy, name, baseline))
    return lines


def _against(accuracy: Measure, name: str, baseline: Measure) -> Line:
    (low, high), (floor, ceiling) = accuracy.interval, baseline.interval
    verdict = "does not differ clearly from it: the intervals overlap"
    if low > ceiling:
        verdict = "is above it, intervals apart"
    elif high < floor:
        verdict = "is below it, intervals apart"
    return [
        "Trivial baseline ",
        Code(name),
        f": {percent(baseline.value)} ({percents(baseline.interval)}, n = "
        f"{baseline.n:,}). The accuracy after training {verdict}.",
    ]


def _evaluations(evaluations: Sequence[Evaluation]) -> list[Block]:
    """Every number of every evaluation, each with its n and interval."""
    if not evaluations:
        return []
    rows: list[list[Line]] = []
    for one in evaluations:
        found = {"accuracy": one.accuracy, **one.metrics}
        found |= {f"baseline {name}": x for name, x in one.baselines.items()}
        for name, x in found.items():
            low, high = (f"{end:.4f}" for end in x.interval)
            cells = [f"{one.step}", describe(one), name, f"{x.value:.4f}", low, high]
            rows.append([*cells, f"{x.n:,}"])
    header = ["step", "evaluation", "number", "value", "95% from", "to", "n"]
    return [Heading(2, "Evaluations"), Table(header, rows, texts=3)]


def _certainty(run: Run, verdict: Verdict) -> list[Block]:
    lines: list[Line] = []
    if verdict.changes:
        lines.append(
            "This is one run from one seed. The intervals cover which problems and "
            "samples were drawn, not what another seed would give: report several "
            "seeds together for that."
        )
    if any(step > 0 for step in {one.step for one in run.evaluations}):
        lines.append(
            "After means the last evaluation, not the best: choosing the best one "
            "would flatter it."
        )
    stated = number(run.summary.get("accuracy_after"))
    last = [x.accuracy.value for x in run.evaluations if x.step == run.last_step]
    if stated is not None and all(abs(stated - value) > 1e-9 for value in last):
        lines.append(
            f"The summary says {percent(stated)} after training, which no evaluation of"
            " the last step does: one of the two files is not this run's."
        )
    return [Heading(2, "How sure"), Bullets(lines)] if lines else []


def _duration(run: Run) -> list[Block]:
    total = number(run.summary.get("seconds_total"))
    compile_time = number(run.summary.get("seconds_compile"))
    of = "" if run.steps is None else f" of {run.steps:,}"
    text = f"{run.last_step:,}{of} steps"
    if total is not None:
        text += f" in {total:,.1f} s"
    elif run.metrics and (last := run.metrics[-1].get("time")) is not None:
        text += f"; the last one ended {last:,.1f} s after the run began"
    if compile_time is not None:
        text += f"; compiling took {compile_time:,.1f} s"
    counts = {kind: 0 for kind in ("resume", "warning")}
    for event in run.events:
        if event.kind in counts:
            counts[event.kind] += 1
    text += f". Resumes: {counts['resume']}. Warnings: {counts['warning']}."
    told = [x for x in run.events if x.kind not in ("start", "checkpoint", "finish")]
    lines: list[Line] = [
        f"step {event.step}, {event.kind}: {event.message}" for event in told
    ]
    return [Paragraph(text), *([Bullets(lines[-20:])] if lines else [])]


def _continue(run: Run) -> list[Block]:
    blocks: list[Block] = []
    if not run.complete:
        kept = "No checkpoint is kept"
        if run.checkpoints:
            kept = (
                f"Checkpoints are kept of step {', '.join(map(str, run.checkpoints))}"
            )
        blocks += [
            Paragraph(f"{kept}. Go on with"),
            Verbatim(commands.resume(run.path)),
        ]
    if run.has_model:
        blocks += [
            Paragraph("The trained model is written. Judge it again with"),
            Verbatim(commands.evaluate(run.path)),
        ]
    if run.complete and run.recipe:
        blocks += [
            Paragraph("The run is finished. Do the same once more with"),
            Verbatim(commands.repeat(run.path)),
        ]
    return blocks


def _flaws(run: Run) -> list[Block]:
    if not run.flaws:
        return []
    return [Heading(2, "What is missing"), Bullets([_plain(x) for x in run.flaws])]


def _plain(sentence_: str) -> Line:
    """Names between backticks as code."""
    return [
        Code(part) if place % 2 else part
        for place, part in enumerate(sentence_.split("`"))
    ]
