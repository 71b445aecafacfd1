"""Health checks of a run: thresholds on its metrics, on the host.

An update whose gradient is not finite is skipped and counted by the program itself
(`skipped_updates`). Checked here is what only several steps show: divergence and
reward functions that fail, which stop a run, and collapse, which is warned of. All
follows from the records of `metrics.jsonl` in their order, so that a resumed run gives
the same warnings.
"""

import collections
import dataclasses
import math
import re
import types
from collections.abc import Collection, Iterator, Mapping
from typing import NamedTuple

from ..._checks import check_counts


Record = Mapping[str, float | int | None]

_ENTROPY = "entropy"
_LENGTH = "completions/mean_length"
_GAP = "sampling/sampling_logp_difference/mean"
_EQUAL = "frac_reward_zero_std"
_TRUNCATED = "completions/clipped_ratio"

_COLLAPSED = {
    _ENTROPY: (
        "The policy hardly explores any more: `entropy` is {now:.3g} nats and was "
        "{before:.3g} at first. Look at `frac_reward_zero_std` and at completions of "
        "one group; a lower learning rate, a higher clip bound (algorithm.high) or a "
        "KL penalty (algorithm.beta) keeps it."
    ),
    _LENGTH: (
        f"Completions collapse: `{_LENGTH}` is {{now:.3g}} tokens and was "
        "{before:.3g} at first. Look at completions.jsonl for what is paid although it "
        "says little, and at the reward's components."
    ),
}


_FAILED = re.compile(r"rewards/(.+)/frac_errors")


class DivergedError(Exception):
    """A run would learn nothing any more; the message says why."""


@dataclasses.dataclass(frozen=True)
class Thresholds:
    """Thresholds of the health checks; `None` switches a check off.

    **Fields:**

    - `skipped_steps`: this many steps in a row with a skipped update, or a loss that is
        not finite, stop the run.
    - `reward_failures`: this many steps in a row in which a reward function in Python
        failed on every row stop the run.
    - `entropy`, `length`: warn below this share of their initial value.
    - `log_prob_gap`: warn above this mean of |log π - recorded log-prob|, in nats.
    - `equal_rewards`: warn after so many steps in a row in which all rows of every
        prompt had the same reward, so that nothing was learnt.
    - `truncated`: warn from this share of truncated rows on, `window` steps in a row.
    - `window`: steps over which entropy, length and gap are averaged; initial values
        are means of the first `window` steps.

    **Raises:** `ValueError` for a threshold out of range.
    """

    skipped_steps: int | None = 5
    reward_failures: int | None = 5
    entropy: float | None = 0.1
    length: float | None = 0.2
    log_prob_gap: float | None = 0.1
    equal_rewards: int | None = 3
    truncated: float | None = 0.95
    window: int = 5

    def __post_init__(self):
        counts = {"skipped_steps": self.skipped_steps, "window": self.window}
        counts |= {"reward_failures": self.reward_failures}
        counts |= {"equal_rewards": self.equal_rewards}
        check_counts("Thresholds", 1, **counts)
        for name, share in (("entropy", self.entropy), ("length", self.length)):
            if share is not None and not 0 <= share < 1:
                raise ValueError(
                    f"`Thresholds.{name}` is a share of the initial value, in [0, 1). "
                    f"Received {share}: use 0.1 for a tenth, or None."
                )
        if self.truncated is not None and not 0 < self.truncated <= 1:
            raise ValueError(
                "`Thresholds.truncated` is a share of rows, in (0, 1]. Received "
                f"{self.truncated}: use 0.95, or None."
            )
        if self.log_prob_gap is not None and not self.log_prob_gap > 0:
            raise ValueError(
                "`Thresholds.log_prob_gap` is positive. Received "
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


class Monitor:
    """The health checks of a run. A warning is given once, until its metric recovers.

    `bad_steps` counts the last steps in a row whose update was skipped, or whose loss
    was not finite.
    """

    def __init__(
        self,
        thresholds: Thresholds = Thresholds(),
        errors: Mapping[str, str] = types.MappingProxyType({}),
    ):
        """**Arguments:**

        - `thresholds`: of the checks.
        - `errors`: the last error of each reward function, by component; read when one
            of them stops the run.
        """
        window = thresholds.window
        self.bad_steps, self._thresholds, self._errors = 0, thresholds, errors
        self._failed_steps = collections.Counter[str]()
        self._first = collections.defaultdict[str, list[float]](list)
        self._recent = collections.defaultdict[str, collections.deque[float]](
            lambda: collections.deque(maxlen=window)
        )
        self._in_a_row = collections.Counter[str]()
        self._warned: set[str] = set()

    def observe(self, record: Record) -> Report:
        """Checks one step's metrics, in the order of steps; one may be missing."""
        self.bad_steps = self.bad_steps + 1 if _is_bad(record) else 0
        for name, value in record.items():
            found = _FAILED.fullmatch(name)
            if found is not None:
                failed = self._failed_steps[found[1]] + 1
                self._failed_steps[found[1]] = failed if value == 1 else 0
        for name in (_ENTROPY, _LENGTH, _GAP):
            value = record.get(name)
            if name == _GAP and record.get("staleness/max"):
                continue  # An older policy sampled: it differs for that reason.
            if value is not None and math.isfinite(value):
                if len(self._first[name]) < self._thresholds.window:
                    self._first[name].append(value)
                self._recent[name].append(value)
        limits = {_EQUAL: 1.0, _TRUNCATED: self._thresholds.truncated}
        for name, limit in limits.items():
            value = record.get(name)
            holds = limit is not None and value is not None and value >= limit
            self._in_a_row[name] = self._in_a_row[name] + 1 if holds else 0
        failing = dict(self._failing(record))
        new = [text for name, text in failing.items() if name not in self._warned]
        self._warned = set(failing)
        return Report(tuple(new), self._stop())

    def _stop(self) -> str | None:
        most = self._thresholds.reward_failures
        for name, steps in self._failed_steps.items():
            if most is not None and steps >= most:
                why = self._errors.get(name, "the log says why")
                return (
                    f"The reward function {name!r} failed on every row in {steps} "
                    f"steps in a row. The last error: {why}. Correct the function, or "
                    "start the server that it calls."
                )
        most = self._thresholds.skipped_steps
        if most is None or self.bad_steps < most:
            return None
        return (
            f"The loss or the gradient was not finite in {self.bad_steps} steps in a "
            "row, whose updates were skipped: the policy is as it was before them. "
            "Lower optimizer.learning_rate, or look at rewards and weights for what is "
            "not finite."
        )

    def _failing(self, record: Record) -> Iterator[tuple[str, str]]:
        """Every check that fails now, by its metric, with its sentence."""
        limits = self._thresholds
        least = limits.equal_rewards
        if least is not None and self._in_a_row[_EQUAL] >= least:
            reward = record.get("reward")
            paid = "" if reward is None else f" ({reward:.3g} on average)"
            yield (
                _EQUAL,
                f"All rows of every prompt had the same reward{paid} in {least} steps "
                "in a row, so nothing is learnt. Look at completions.jsonl: does the "
                "answer stand where the reward looks for it (data.answer_format, "
                "data.chat, data.system_prompt), does it end in time "
                "(rollout.max_new_tokens), are problems too hard or too easy, and is "
                "rollout.group above 1?",
            )
        if self._in_a_row[_TRUNCATED] >= limits.window:
            yield (
                _TRUNCATED,
                f"Hardly any completion ends by itself: `{_TRUNCATED}` is "
                f"{record[_TRUNCATED]:.3g}. Raise rollout.max_new_tokens, or look at "
                "what ends one: the tokenizer's end tokens, data.chat, data.stop.",
            )
        for name, share in ((_ENTROPY, limits.entropy), (_LENGTH, limits.length)):
            if share is not None and len(self._first[name]) == limits.window:
                now, before = _mean(self._recent[name]), _mean(self._first[name])
                if now < share * before:
                    yield name, _COLLAPSED[name].format(now=now, before=before)
        if limits.log_prob_gap is not None and self._recent[_GAP]:
            now = _mean(self._recent[_GAP])
            if now > limits.log_prob_gap:
                yield (
                    _GAP,
                    f"Sampler and loss disagree: `{_GAP}` is {now:.3g} nats, more than "
                    f"{limits.log_prob_gap:.3g}. Look at `ratio/max` and at the "
                    "precision (model.compute_dtype); update.recompute, or an "
                    "importance correction, accounts for it.",
                )


def _mean(values: Collection[float]) -> float:
    return sum(values) / len(values)


def _is_bad(record: Record) -> bool:
    loss = record.get("loss", 0.0)
    skipped = record.get("skipped_updates", 0.0)
    return loss is None or not math.isfinite(loss) or skipped is None or skipped > 0
