"""Did it work: before against after, on the same questions or not at all."""

import dataclasses

import numpy as np

from ._document import Line, Strong
from ._evaluations import Evaluation, Interval
from ._intervals import mean_interval, newcombe, sign_test
from ._lines import read_lines
from ._panels import describe
from ._read import Run


@dataclasses.dataclass(frozen=True)
class Change:
    """Two evaluations that asked the same, and how sure their difference is.

    **Fields:**

    - `interval`: 95%, of after minus before.
    - `p_value`: of the sign test, where the same problems could be paired.
    - `method`: the interval's name.
    """

    before: Evaluation
    after: Evaluation
    interval: Interval
    p_value: float | None
    method: str

    @property
    def difference(self) -> float:
        """Accuracy after minus before."""
        return self.after.accuracy.value - self.before.accuracy.value

    @property
    def direction(self) -> int:
        """1 or -1 where no change is excluded, 0 where it is not.

        With pairs both the interval and the test must exclude it.
        """
        if self.p_value is not None and self.p_value >= 0.05:
            return 0
        return int(self.interval[0] > 0) - int(self.interval[1] < 0)


@dataclasses.dataclass(frozen=True)
class Verdict:
    """The changes that could be measured, and why others could not."""

    changes: list[Change]
    refusals: list[str]


def judge(run: Run) -> Verdict:
    """Compares what a run's first and last evaluations of each kind found."""
    series: dict[tuple, list[Evaluation]] = {}
    for one in run.evaluations:
        series.setdefault(one.series, []).append(one)
    changes, refusals = [], []
    for found in series.values():
        # Of several lines for one step the last counts.
        by_step = {one.step: one for one in found}
        last = by_step[max(by_step)]
        name = describe(last).capitalize()
        if 0 not in by_step:
            refusals.append(
                f"{name}: nothing was measured before training, so there is no "
                "baseline to compare with."
            )
        elif last.step == 0:
            refusals.append(f"{name}: nothing was measured after step 0.")
        elif by_step[0].asked != last.asked:
            before = by_step[0]
            refusals.append(
                f"{name}: cannot compare. Before: n = {before.accuracy.n:,} "
                f"({_questions(before)}); after: n = {last.accuracy.n:,} "
                f"({_questions(last)})."
            )
        else:
            changes.append(_change(run, by_step[0], last))
    if len(changes) == 0 and len(series) > 1:
        refusals.append(
            "Evaluations of different splits, modes or temperatures are never compared "
            "with each other."
        )
    if not series:
        refusals.append("No evaluation was recorded.")
    return Verdict(changes, refusals)


def _questions(one: Evaluation) -> str:
    if one.problems is None or one.samples is None:
        return "problems not recorded"
    return f"{one.problems:,} problems x {one.samples}"


def _change(run: Run, before: Evaluation, after: Evaluation) -> Change:
    differences = paired_differences(run, before, after)
    interval = None if differences is None else mean_interval(differences)
    if differences is not None and interval is not None:
        method = f"paired t-interval over {len(differences):,} problems"
        return Change(before, after, interval, sign_test(differences), method)
    ends = newcombe(
        before.accuracy.value,
        before.accuracy.interval,
        after.accuracy.value,
        after.accuracy.interval,
    )
    return Change(before, after, ends, None, "Newcombe's interval, unpaired")


def paired_differences(
    run: Run, before: Evaluation, after: Evaluation
) -> list[float] | None:
    """Each problem's change, if the predictions of both are whole and agree."""
    shares = []
    for one in (before, after):
        found = _shares(run, one)
        counted = sum(n for _, n in found.values())
        right = sum(share * n for share, n in found.values())
        whole = counted == one.accuracy.n and counted > 0
        if not whole or abs(right / counted - one.accuracy.value) > 1e-6:
            return None
        shares.append({key: share for key, (share, _) in found.items()})
    if shares[0].keys() != shares[1].keys():
        return None
    return [shares[1][key] - shares[0][key] for key in sorted(shares[0])]


def _shares(run: Run, one: Evaluation) -> dict[tuple[int, str], tuple[float, int]]:
    """The share of each problem's samples that are right, and how many there are."""
    path = run.path / "predictions" / f"{one.step}-{one.mode}.jsonl"
    shares = {}
    for record in read_lines(path, [], optional=True):
        problem, samples = record.get("problem"), record.get("samples")
        if not isinstance(problem, int) or not isinstance(samples, list):
            continue  # The header, which says what was asked.
        right = [isinstance(x, dict) and x.get("correct") is True for x in samples]
        if right:
            key = (problem, str(record.get("prompt")))
            shares[key] = (float(np.mean(right)), len(right))
    return shares


def percent(value: float) -> str:
    """A share, to a tenth of a percent."""
    return f"{100 * value:.1f}%"


def percents(interval: Interval) -> str:
    """Both ends of an interval."""
    return f"{percent(interval[0])} to {percent(interval[1])}"


def points(value: float) -> str:
    """A difference of shares, in percentage points, with its sign."""
    return f"{100 * value:+.1f}"


def sentence(change: Change) -> Line:
    """What happened, how sure that is, and by which method."""
    before, after = change.before.accuracy, change.after.accuracy
    verb = "rose" if change.difference > 0 else "fell"
    verb = "stayed" if change.difference == 0 else verb
    answer = {
        1: "Yes, accuracy rose.",
        -1: "No, accuracy fell.",
        0: "Not shown: the difference may be chance.",
    }[change.direction]
    certain = change.direction != 0
    test, verdict = "", "the interval " + ("excludes" if certain else "includes")
    if change.p_value is not None:
        test = f"; sign test (McNemar's), p = {change.p_value:.2g}"
        verdict = "both exclude" if certain else "they do not both exclude"
    return [
        Strong(answer),
        f" {describe(change.after).capitalize()}: accuracy {verb} from ",
        Strong(percent(before.value)),
        f" (95% interval {percents(before.interval)}) at step 0 to ",
        Strong(percent(after.value)),
        f" ({percents(after.interval)}) at step {change.after.step}, n = {after.n:,} "
        f"each. The difference is {points(change.difference)} points, 95% interval "
        f"{points(change.interval[0])} to {points(change.interval[1])} "
        f"({change.method}{test}): {verdict} zero change.",
    ]
