"""Whether a run is still worth its time: checks of the metrics, on the host.

A step whose gradient is not finite changes nothing and is counted in the program
already (`skipped_updates`). Here is what a run as a whole does about it, and warnings
for what no single step shows. All is a pure function of the records of `metrics.jsonl`,
so that a run that is resumed is warned no differently.
"""

import dataclasses
import math
from collections.abc import Iterable, Mapping
from typing import NamedTuple


Record = Mapping[str, float | int | None]

_GAP = "sampling/sampling_logp_difference/mean"
_LENGTH = "completions/mean_length"


class DivergedError(Exception):
    """A run is not worth its time any more; the message says why."""


@dataclasses.dataclass(frozen=True)
class Bounds:
    """What is still in order. `None` switches a check off.

    **Fields:**

    - `skipped_steps`: so many steps in a row with an update that was skipped, or whose
        loss is not finite, stop the run.
    - `entropy`, `length`: the smallest share of what they were at first.
    - `log_prob_gap`: the largest mean of |log π - what the sampler recorded|, in nats.
    - `window`: over so many steps entropy, length and gap are averaged; those at first
        are the first so many.
    """

    skipped_steps: int | None = 5
    entropy: float | None = 0.1
    length: float | None = 0.2
    log_prob_gap: float | None = 0.1
    window: int = 5

    def __post_init__(self):
        if self.skipped_steps is not None and self.skipped_steps < 1:
            raise ValueError(
                "A run is stopped after one bad step or more. Received "
                f"skipped_steps={self.skipped_steps}: use at least 1, or None."
            )
        if self.window < 1:
            raise ValueError(
                f"A window holds one step or more. Received window={self.window}: use "
                "at least 1."
            )
        for name in ("entropy", "length"):
            share = vars(self)[name]
            if share is not None and not 0 <= share < 1:
                raise ValueError(
                    f"A share of what {name} was at first is in [0, 1). Received "
                    f"{name}={share}: use 0.1 for a tenth, or None."
                )
        if self.log_prob_gap is not None and not self.log_prob_gap > 0:
            raise ValueError(
                f"A gap's bound is positive. Received log_prob_gap={self.log_prob_gap}:"
                " use some tenths of a nat, or None."
            )


class Verdict(NamedTuple):
    """What a step gave rise to.

    **Fields:**

    - `warnings`: sentences that say what to look at.
    - `stop`: why the run should stop, or `None`.
    """

    warnings: tuple[str, ...]
    stop: str | None


@dataclasses.dataclass(frozen=True)
class Guard:
    """What is remembered of the steps so far. Each warning comes once, until what it is
    about recovers.

    !!! example

        ```python
        guard = Guard(Bounds(skipped_steps=3))
        guard, verdict = guard.observe({"step": 1, "loss": 0.1, "skipped_updates": 0})
        ```
    """

    bounds: Bounds = Bounds()
    bad_steps: int = 0
    first: Mapping[str, tuple[float, ...]] = dataclasses.field(default_factory=dict)
    recent: Mapping[str, tuple[float, ...]] = dataclasses.field(default_factory=dict)
    warned: frozenset[str] = frozenset()

    def observe(self, record: Record) -> tuple["Guard", Verdict]:
        """Looks at one step's metrics, in the order of steps.

        A metric that is not there is not checked.
        """
        bad = self.bad_steps + 1 if _is_bad(record) else 0
        first, recent = dict(self.first), dict(self.recent)
        for name in ("entropy", _LENGTH, _GAP):
            value = record.get(name)
            if value is not None and math.isfinite(value):
                at_first, window = first.get(name, ()), self.bounds.window
                if len(at_first) < window:
                    first[name] = (*at_first, float(value))
                recent[name] = (*recent.get(name, ()), float(value))[-window:]
        guard = dataclasses.replace(self, bad_steps=bad, first=first, recent=recent)
        found = guard._found()
        guard = dataclasses.replace(guard, warned=frozenset(found))
        new = tuple(text for name, text in found.items() if name not in self.warned)
        return guard, Verdict(new, guard._stop())

    def replay(self, records: Iterable[Record]) -> "Guard":
        """The guard of a run that is resumed, after the records of its steps."""
        guard = self
        for record in records:
            guard, _ = guard.observe(record)
        return guard

    def _stop(self) -> str | None:
        most = self.bounds.skipped_steps
        if most is None or self.bad_steps < most:
            return None
        return (
            f"The loss or the gradient was not finite in {self.bad_steps} steps in a "
            "row, whose updates were skipped: the policy is as it was before them. "
            "Lower optimizer.learning_rate, or look at rewards and weights for what is "
            "not finite."
        )

    def _found(self) -> dict[str, str]:
        """Every check that fails now, with its sentence."""
        bounds, found = self.bounds, {}
        if entropy := self._fallen("entropy", bounds.entropy):
            now, before = entropy
            found["entropy"] = (
                f"The policy hardly explores any more: `entropy` is {now:.3g} nats and "
                f"was {before:.3g} at first. Look at `frac_reward_zero_std` and at "
                "completions of one group; a lower learning rate, a higher clip bound "
                "(algorithm.high) or a KL penalty (algorithm.beta) keeps it."
            )
        if length := self._fallen(_LENGTH, bounds.length):
            now, before = length
            found["length"] = (
                f"Completions collapse: `{_LENGTH}` is {now:.3g} tokens and was "
                f"{before:.3g} at first. Look at completions.jsonl for what is paid "
                "although it says little, and at the reward's components."
            )
        gap = self.recent.get(_GAP)
        if gap and bounds.log_prob_gap is not None:
            now = sum(gap) / len(gap)
            if now > bounds.log_prob_gap:
                found["gap"] = (
                    f"Sampler and loss disagree: `{_GAP}` is {now:.3g} nats, more than "
                    f"{bounds.log_prob_gap:.3g}. Look at `ratio/max` and at the "
                    "precision (model.compute_dtype); update.recompute, or an "
                    "importance correction, accounts for it."
                )
        return found

    def _fallen(self, name: str, share: float | None) -> tuple[float, float] | None:
        """What a metric is now and was at first, if it is below that share of it."""
        first, recent = self.first.get(name, ()), self.recent.get(name, ())
        if share is None or len(first) < self.bounds.window:
            return None
        now, before = sum(recent) / len(recent), sum(first) / len(first)
        return (now, before) if now < share * before else None


def _is_bad(record: Record) -> bool:
    loss = record.get("loss", 0.0)
    skipped = record.get("skipped_updates", 0.0)
    return loss is None or not math.isfinite(loss) or skipped is None or skipped > 0
