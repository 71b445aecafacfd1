"""Completions as a page shows them: few enough to load, and each as it was."""

import json
import math
from collections.abc import Mapping, Sequence

from ._document import Block, Heading, Paragraph, Verbatim
from ._lines import Record
from ._read import number, Run


CHARACTERS = 6_000_000  # Of JSON in a page: more makes a browser slow.


def rows_of(run: Run, label: str, *, characters: int = CHARACTERS) -> list[Record]:
    """A run's logged prompts with their samples, evenly thinned to fit a page."""
    rows = [_row(record, label) for record in run.completions]
    size = sum(len(json.dumps(row)) for row in rows)
    every = max(1, math.ceil(size / characters))
    return rows[::every]


def _row(record: Record, label: str) -> Record:
    samples = record["samples"]
    assert isinstance(samples, list)
    return {
        "run": label,
        "step": int(number(record["step"]) or 0),
        "prompt": str(record.get("prompt", "")),
        "samples": [_sample(sample) for sample in samples],
    }


def _sample(record: Mapping[str, object]) -> Record:
    rewards = record.get("rewards")
    rewards = rewards if isinstance(rewards, Mapping) else {}
    paid = {str(name): _short(value) for name, value in rewards.items()}
    total = _short(record.get("total"))
    text, pieces = str(record.get("text", "")), record.get("pieces")
    log_probs, sampled = record.get("log_prob"), record.get("sampled")
    pieces = [str(piece) for piece in pieces] if isinstance(pieces, list) else [text]
    return {
        "text": text,
        "pieces": pieces,
        "logProbs": _beside(pieces, log_probs, lambda x: _short(x, 4), None),
        "sampled": _beside(pieces, sampled, bool, True),
        "rewards": paid,
        "total": total,
        "right": is_right(paid, total),
        "valid": record.get("valid") is not False,
        "advantage": _short(record.get("advantage")),
        "terminated": record.get("terminated") is not False,
    }


def is_right(rewards: Mapping[str, float | None], total: float | None) -> bool | None:
    """Whether a sample is right: by the component `correct`, or by any pay at all."""
    value = rewards.get("correct", total)
    threshold = 0.5 if "correct" in rewards else 0.0
    return None if value is None else value > threshold


def _beside(pieces: Sequence[str], values: object, convert, default) -> list:
    """One value a piece; the default where there is not one for each."""
    if not isinstance(values, list) or len(values) != len(pieces):
        return [default] * len(pieces)
    return [convert(value) for value in values]


def _short(value: object, digits: int = 5) -> float | None:
    found = number(value)
    return None if found is None else float(f"{found:.{digits}g}")


def samples_of(run: Run, *, most: int = 2) -> list[Block]:
    """The first prompt of the last step that was logged, and some of its samples."""
    if not run.completions:
        return []
    row = _row(run.completions[-1], "")
    blocks: list[Block] = [
        Heading(2, "Samples"),
        Paragraph(f"A prompt of step {row['step']}, the last one that was logged:"),
        Verbatim(row["prompt"]),
    ]
    for sample in row["samples"][:most]:
        right = {True: "right", False: "wrong", None: "not judged"}[sample["right"]]
        total, advantage = sample["total"], sample["advantage"]
        line = f"{right}, reward {total}, advantage {advantage}:"
        blocks += [Paragraph(line), Verbatim(sample["text"] or "(nothing)")]
    return blocks
