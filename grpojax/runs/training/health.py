"""Health checks of a run: thresholds on its metrics, on the host.

An update whose gradient is not finite is skipped and counted by the program itself
(`skipped_updates`). Checked here is what only several steps show: divergence, which
stops a run, and collapse, which is warned of. All is a pure function of the records of
`metrics.jsonl`, so that a resumed run gives the same warnings.
"""

import dataclasses
import math
from collections.abc import Iterable, Mapping
from typing import NamedTuple


Record = Mapping[str, float | int | None]

_GAP = "sampling/sampling_logp_difference/mean"
_LENGTH = "completions/mean_length"


class DivergedError(Exception):
    """A run has diverged; the message says why."""


@dataclasses.dataclass(frozen=True)
class Thresholds:
    """Thresholds of the health checks; `None` switches a check off.

    **Fields:**

    - `skipped_steps`: this many steps in a row with a skipped update, or a loss that is
        not finite, stop the run.
    - `entropy`, `length`: warn below this share of their initial value.
    - `log_prob_gap`: warn above this mean of |log π - recorded log-prob|, in nats.
    - `window`: steps over which entropy, length and gap are averaged; initial values
        are means of the first `window` steps.

    **Raises:** `ValueError` for a threshold out of range.
    """

    skipped_steps: int | None = 5
    entropy: float | None = 0.1
    length: float | None = 0.2
    log_prob_gap: float | None = 0.1
    window: int = 5

    def __post_init__(self):
        if self.skipped_steps is not None and self.skipped_steps < 1:
            raise ValueError(
                "Thresholds(skipped_steps=...) counts steps, at least 1. Received "
                f"{self.skipped_steps}: use at least 1, or None."
            )
        if self.window < 1:
            raise ValueError(
                "Thresholds(window=...) counts steps, at least 1. Received "
                f"{self.window}."
            )
        for name in ("entropy", "length"):
            share = vars(self)[name]
            if share is not None and not 0 <= share < 1:
                raise ValueError(
                    f"Thresholds({name}=...) is a share of the initial value, in "
                    f"[0, 1). Received {share}: use 0.1 for a tenth, or None."
                )
        if self.log_prob_gap is not None and not self.log_prob_gap > 0:
            raise ValueError(
                "Thresholds(log_prob_gap=...) is positive. Received "
                f"{self.log_prob_gap}: use some tenths of a nat, or None."
            )


class Report(NamedTuple):
    """Findings of the checks after a step.

    **Fields:**

    - `warnings`: a sentence for each check that fails since this step.
    - `stop`: why the run should stop, or `None`.
    """

    warnings: tuple[str, ...]
    stop: str | None


@dataclasses.dataclass(frozen=True)
class Monitor:
    """State of the health checks. A warning is given once, until its metric recovers.

    !!! example

        ```python
        monitor = Monitor(Thresholds(skipped_steps=3))
        monitor, report = monitor.observe({"step": 1, "skipped_updates": 0})
        ```
    """

    thresholds: Thresholds = Thresholds()
    bad_steps: int = 0
    first: Mapping[str, tuple[float, ...]] = dataclasses.field(default_factory=dict)
    recent: Mapping[str, tuple[float, ...]] = dataclasses.field(default_factory=dict)
    warned: frozenset[str] = frozenset()

    def observe(self, record: Record) -> tuple["Monitor", Report]:
        """Checks one step's metrics; to be called in the order of steps.

        A metric that is missing is not checked.
        """
        bad = self.bad_steps + 1 if _is_bad(record) else 0
        first, recent = dict(self.first), dict(self.recent)
        for name in ("entropy", _LENGTH, _GAP):
            value = record.get(name)
            if value is not None and math.isfinite(value):
                at_first, window = first.get(name, ()), self.thresholds.window
                if len(at_first) < window:
                    first[name] = (*at_first, float(value))
                recent[name] = (*recent.get(name, ()), float(value))[-window:]
        monitor = dataclasses.replace(self, bad_steps=bad, first=first, recent=recent)
        found = monitor._found()
        monitor = dataclasses.replace(monitor, warned=frozenset(found))
        new = tuple(text for name, text in found.items() if name not in self.warned)
        return monitor, Report(new, monitor._stop())

    def replay(self, records: Iterable[Record]) -> "Monitor":
        """The monitor of a resumed run, after the records of its steps."""
        monitor = self
        for record in records:
            monitor, _ = monitor.observe(record)
        return monitor

    def _stop(self) -> str | None:
        most = self.thresholds.skipped_steps
        if most is None or self.bad_steps < most:
            return None
        return (
            f"The loss or the gradient was not finite in {self.bad_steps} steps in a "
            "row, whose updates were skipped: the policy is as it was before them. "
            "Lower optimizer.learning_rate, or look at rewards and weights for what is "
            "not finite."
        )

    def _found(self) -> dict[str, str]:
        """Every check that fails now, by name, with its sentence."""
        thresholds, found = self.thresholds, {}
        if entropy := self._fallen("entropy", thresholds.entropy):
            now, before = entropy
            found["entropy"] = (
                f"The policy hardly explores any more: `entropy` is {now:.3g} nats and "
                f"was {before:.3g} at first. Look at `frac_reward_zero_std` and at "
                "completions of one group; a lower learning rate, a higher clip bound "
                "(algorithm.high) or a KL penalty (algorithm.beta) keeps it."
            )
        if length := self._fallen(_LENGTH, thresholds.length):
            now, before = length
            found["length"] = (
                f"Completions collapse: `{_LENGTH}` is {now:.3g} tokens and was "
                f"{before:.3g} at first. Look at completions.jsonl for what is paid "
                "although it says little, and at the reward's components."
            )
        gap = self.recent.get(_GAP)
        if gap and thresholds.log_prob_gap is not None:
            now = sum(gap) / len(gap)
            if now > thresholds.log_prob_gap:
                found["gap"] = (
                    f"Sampler and loss disagree: `{_GAP}` is {now:.3g} nats, more than "
                    f"{thresholds.log_prob_gap:.3g}. Look at `ratio/max` and at the "
                    "precision (model.compute_dtype); update.recompute, or an "
                    "importance correction, accounts for it."
                )
        return found

    def _fallen(self, name: str, fraction: float | None) -> tuple[float, float] | None:
        """A metric's current and initial mean, if it is below that share of it."""
        first, recent = self.first.get(name, ()), self.recent.get(name, ())
        if fraction is None or len(first) < self.thresholds.window:
            return None
        now, before = sum(recent) / len(recent), sum(first) / len(first)
        return (now, before) if now < fraction * before else None


def _is_bad(record: Record) -> bool:
    loss = record.get("loss", 0.0)
    skipped = record.get("skipped_updates", 0.0)
    return loss is None or not math.isfinite(loss) or skipped is None or skipped > 0
