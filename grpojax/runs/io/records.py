"""Records of sampled completions, as `completions.jsonl` has them; needs no JAX."""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar


Value = TypeVar("Value")


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

    @property
    def correct(self) -> bool | None:
        """`rewards["correct"] > 0.5`; without that component, `total > 0`."""
        value = self.rewards.get("correct", self.total)
        threshold = 0.5 if "correct" in self.rewards else 0.0
        return None if value is None else value > threshold

    def to_json(self) -> dict[str, object]:
        """The record, with the fields as keys."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, record: Mapping[str, object]) -> "Sample":
        """Parses a record; a key that is absent or malformed gets its default.

        Without a log-prob for each of the `pieces` all are `None`.
        """
        rewards = record.get("rewards")
        text, pieces = str(record.get("text", "")), record.get("pieces")
        pieces = (
            [str(piece) for piece in pieces] if isinstance(pieces, list) else [text]
        )
        return cls(
            text=text,
            pieces=pieces,
            log_prob=_per_piece(pieces, record.get("log_prob"), finite_float, None),
            sampled=_per_piece(pieces, record.get("sampled"), bool, True),
            rewards={
                str(name): finite_float(value)
                for name, value in (
                    rewards.items() if isinstance(rewards, Mapping) else ()
                )
            },
            total=finite_float(record.get("total")),
            valid=record.get("valid") is not False,
            advantage=finite_float(record.get("advantage")),
            terminated=record.get("terminated") is not False,
        )


@dataclasses.dataclass(frozen=True)
class SampleGroup:
    """A prompt of a step with the samples of its group: one line of the file.

    !!! example

        ```python
        line = '{"step": 1, "prompt": "1 + 1 =", "samples": [{"text": " 2"}]}'
        SampleGroup.from_json(json.loads(line)).samples[0].text  # " 2"
        ```
    """

    step: int
    prompt: str
    samples: list[Sample]

    def to_json(self) -> dict[str, object]:
        """The record, with the fields as keys."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, record: Mapping[str, object]) -> "SampleGroup":
        """Parses a record.

        **Raises:** `ValueError` without a step, or without a list of samples.
        """
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
    return float(value) if math.isfinite(value) else None


def _per_piece(
    pieces: Sequence[str],
    values: object,
    convert: Callable[[object], Value],
    default: Value,
) -> list[Value]:
    """One value for each piece; all defaults if the lengths differ."""
    if not isinstance(values, list) or len(values) != len(pieces):
        return [default] * len(pieces)
    return [convert(value) for value in values]
