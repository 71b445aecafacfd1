"""The completions that a page embeds: downsampled so that a browser stays fast."""

import dataclasses
import json
import math

from ...io.jsonl import Record
from ...io.records import Sample, SampleGroup
from ..read import Run


MAX_CHARACTERS = 6_000_000  # Of JSON in a page.


def page_rows(
    run: Run, label: str, *, characters: int = MAX_CHARACTERS
) -> list[Record]:
    """A run's logged prompts with their completions, evenly downsampled.

    **Arguments:**

    - `label`: the run's name in the page.
    - `characters`: about how many the rows may have as JSON.
    """
    rows = [_row(group, label) for group in run.completions]
    size = sum(len(json.dumps(row)) for row in rows)
    return rows[:: max(1, math.ceil(size / characters))]


def _row(group: SampleGroup, label: str) -> Record:
    samples = [_sample(sample) for sample in group.samples]
    return {
        "run": label,
        "step": group.step,
        "prompt": group.prompt,
        "samples": samples,
    }


def _sample(sample: Sample) -> Record:
    return {
        **dataclasses.asdict(sample),
        "correct": sample.correct,
        "log_prob": [_rounded(x) for x in sample.log_prob],
        "rewards": {name: _rounded(x) for name, x in sample.rewards.items()},
        "total": _rounded(sample.total),
        "advantage": _rounded(sample.advantage),
    }


def _rounded(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.5g}")
