"""Records of sampled completions, as `completions.jsonl` has them; needs no JAX."""

import dataclasses
import math
from collections.abc import Callable, Mapping


@dataclasses.dataclass(frozen=True)
class Sample:
    """One sampled completion with its rewards; what does not apply is `None`.

    **Fields:**

    - `text`: the completion, decoded.
    - `pieces`: what each token adds to `text`.
    - `log_prob`: of each token, in nats; see `Trajectory.log_prob`.
    - `sampled`: of each token, `False` for those of an environment's reply.
    - `rewards`: by component.
    - `total`: the weighted and shaped reward.
    - `valid`: whether the completion counts in the loss.
    - `advantage`: its mean over tokens if each token has its own.
    - `terminated`: `False` for a completion truncated at the maximum length.
    - `turns`: what the environment has paid for each turn, by component; empty for a
        completion of a single turn.
    """

    text: str
    pieces: list[str]
    log_prob: list[float | None]
    sampled: list[bool]
    rewards: dict[str, float | None]
    total: float | None
    valid: bool
    advantage: float | None
    terminated: bool
    turns: dict[str, list[float | None]] = dataclasses.field(default_factory=dict)

    @property
    def correct(self) -> bool | None:
        """`rewards["correct"] > 0.5`; without that component, `total > 0`."""
        value = self.rewards.get("correct", self.total)
        threshold = 0.5 if "correct" in self.rewards else 0.0
        return None if value is None else value > threshold

    @classmethod
    def from_json(cls, record: Mapping[str, object]) -> "Sample":
        """Parses a record; a key that is absent or malformed gets its default.

        Without a log-prob for each of the `pieces` all are `None`.
        """
        text, pieces = str(record.get("text", "")), record.get("pieces")
        pieces = list(map(str, pieces)) if isinstance(pieces, list) else [text]
        rewards = record.get("rewards")
        rewards = rewards if isinstance(rewards, Mapping) else {}

        turns = record.get("turns")
        turns = turns if isinstance(turns, Mapping) else {}

        def per_piece(name: str, convert: Callable, default: object) -> list:
            values = record.get(name)
            if not isinstance(values, list) or len(values) != len(pieces):
                return [default] * len(pieces)
            return list(map(convert, values))

        return cls(
            text=text,
            pieces=pieces,
            log_prob=per_piece("log_prob", finite_float, None),
            sampled=per_piece("sampled", bool, True),
            rewards={str(name): finite_float(x) for name, x in rewards.items()},
            total=finite_float(record.get("total")),
            valid=record.get("valid") is not False,
            advantage=finite_float(record.get("advantage")),
            terminated=record.get("terminated") is not False,
            turns={
                str(name): list(map(finite_float, paid))
                for name, paid in turns.items()
                if isinstance(paid, list)
            },
        )


@dataclasses.dataclass(frozen=True)
class SampleGroup:
    """A prompt of a step with the samples of its group: one line of the file."""

    step: int
    prompt: str
    samples: list[Sample]

    @classmethod
    def from_json(cls, record: Mapping[str, object]) -> "SampleGroup":
        """Parses a record; `ValueError` without a step or a list of samples."""
        step, samples = finite_float(record.get("step")), record.get("samples")
        if (
            step is None
            or not isinstance(samples, list)
            or not all(isinstance(sample, Mapping) for sample in samples)
        ):
            raise ValueError(
                "A record of completions has a step and a list of samples. Received "
                f"{record!r:.80}: remove that line."
            )
        prompt = str(record.get("prompt", ""))
        return cls(int(step), prompt, [Sample.from_json(sample) for sample in samples])


def finite_float(value: object) -> float | None:
    """A finite number as a float; `None` for anything else, booleans included."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:  # An integer of hundreds of digits.
        return None
    return number if math.isfinite(number) else None
