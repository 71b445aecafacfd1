"""Completions as a report shows them: few enough to load, and each as it was."""

import dataclasses
import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from ._document import Block, Heading, Paragraph, Verbatim
from ._lines import number, Record
from ._read import Run


CHARACTERS = 6_000_000  # Of JSON in a page: more makes a browser slow.

Value = TypeVar("Value")


@dataclasses.dataclass(frozen=True)
class Sample:
    """One completion; `pieces`, `log_probs` and `sampled` have an entry a token."""

    text: str
    pieces: list[str]
    log_probs: list[float | None]
    sampled: list[bool]
    rewards: dict[str, float | None]
    total: float | None
    right: bool | None
    valid: bool
    advantage: float | None
    terminated: bool


@dataclasses.dataclass(frozen=True)
class Row:
    """A prompt of a step, with the samples of its group."""

    run: str
    step: int
    prompt: str
    samples: list[Sample]


def rows_of(run: Run, label: str, *, characters: int = CHARACTERS) -> list[Row]:
    """A run's logged prompts with their samples, evenly thinned to fit a page."""
    rows = [_row(record, label) for record in run.completions]
    size = sum(len(json.dumps(dataclasses.asdict(row))) for row in rows)
    every = max(1, math.ceil(size / characters))
    return rows[::every]


def samples_of(run: Run, *, most: int = 2) -> list[Block]:
    """A prompt of the last step that was logged, and some of its samples."""
    if not run.completions:
        return []
    row = _row(run.completions[-1], "")
    blocks: list[Block] = [Heading(2, "Samples")]
    blocks.append(Paragraph(f"A prompt of step {row.step}, the last one logged:"))
    blocks.append(Verbatim(row.prompt))
    for sample in row.samples[:most]:
        judged = {True: "Right", False: "Wrong", None: "Not judged"}[sample.right]
        line = f"{judged}; reward {sample.total}, advantage {sample.advantage}:"
        blocks += [Paragraph(line), Verbatim(sample.text or "(nothing)")]
    return blocks


def _row(record: Record, label: str) -> Row:
    samples = record["samples"]
    assert isinstance(samples, list)
    step, prompt = int(number(record["step"]) or 0), str(record.get("prompt", ""))
    return Row(label, step, prompt, [_sample(sample) for sample in samples])


def _sample(record: Mapping[str, object]) -> Sample:
    rewards = record.get("rewards")
    rewards = rewards if isinstance(rewards, Mapping) else {}
    paid = {str(name): _short(value) for name, value in rewards.items()}
    total = _short(record.get("total"))
    text, pieces = str(record.get("text", "")), record.get("pieces")
    pieces = [str(piece) for piece in pieces] if isinstance(pieces, list) else [text]
    return Sample(
        text=text,
        pieces=pieces,
        log_probs=_beside(pieces, record.get("log_prob"), _short, None),
        sampled=_beside(pieces, record.get("sampled"), bool, True),
        rewards=paid,
        total=total,
        right=is_right(paid, total),
        valid=record.get("valid") is not False,
        advantage=_short(record.get("advantage")),
        terminated=record.get("terminated") is not False,
    )


def is_right(rewards: Mapping[str, float | None], total: float | None) -> bool | None:
    """Whether a sample is right: by the component `correct`, or by any pay at all."""
    value = rewards.get("correct", total)
    threshold = 0.5 if "correct" in rewards else 0.0
    return None if value is None else value > threshold


def _beside(
    pieces: Sequence[str],
    values: object,
    convert: Callable[[object], Value],
    default: Value,
) -> list[Value]:
    """One value a piece; the default where there is not one for each."""
    if not isinstance(values, list) or len(values) != len(pieces):
        return [default] * len(pieces)
    return [convert(value) for value in values]


def _short(value: object) -> float | None:
    found = number(value)
    return None if found is None else float(f"{found:.5g}")
