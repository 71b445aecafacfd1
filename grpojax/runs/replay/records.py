"""A replayed step as JSON: one record for each row, and a summary."""

from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from ..io.samples import Samples, shortest_float, to_records
from .replay import Replay


def row_records(replay: Replay) -> Iterator[dict[str, object]]:
    """A record for each row of a step: its tokens, its reward and what it contributed.

    **Keys:**

    - `step`, `prompt`, `sample`: numbers of the step, the prompt and its sample.
    - `tokens`, `sampled`, `log_prob`: as in `Trajectory`, up to the last sampled token.
    - `rewards`, `total`, `valid`, `terminated`: as in `completions.jsonl`.
    - `trained`: whether the row contributes to the loss.
    - `advantage`: of the row, or of each token.
    - `updates`: for each epoch `loss`, `grad_norm` and `grad_cosine` of the row, and of
        each token `ratio`, `new_log_prob`, `weight`, and whether it is clipped: `low`,
        `high` or null; see `update.RowInspection`.
    - `prompt_text`, `text`, `pieces`: with a tokenizer.
    """
    made = replay.experience
    samples = Samples.of(made.trajectory, made.rewards, made.advantages)
    samples, keep = jax.device_get((samples, made.keep))
    texts = _texts(replay, samples)
    for p, g in np.ndindex(*keep.shape):
        sampled = samples.sampled[p, g]
        length = int(np.max(np.flatnonzero(sampled), initial=-1)) + 1
        advantage = samples.advantage[p, g]
        rewards = samples.rewards.items()
        valid = bool(samples.valid[p, g])
        yield {
            "step": replay.step,
            "prompt": p,
            "sample": g,
            "tokens": samples.tokens[p, g, :length].tolist(),
            "sampled": sampled[:length].tolist(),
            "log_prob": _floats(samples.log_prob[p, g, :length]),
            "rewards": {name: shortest_float(x[p, g]) for name, x in rewards},
            "total": shortest_float(samples.total[p, g]),
            "valid": valid,
            "terminated": bool(samples.terminated[p, g]),
            "trained": bool(keep[p, g]) and valid,
            "advantage": _floats(advantage[:length] if advantage.ndim else advantage),
            "updates": [
                _update(replay, epoch, p, g, length)
                for epoch in range(replay.inspection.rows.loss.shape[0])
            ],
            **texts[p][g],
        }


def _texts(replay: Replay, samples: Samples) -> list[list[dict[str, object]]]:
    """What a tokenizer says of each row."""
    prompts, group = samples.terminated.shape
    if replay.tokenizer is None:
        return [[{}] * group] * prompts
    records: Any = to_records(replay.step, samples, replay.tokenizer)
    return [
        [
            {"prompt_text": record["prompt"], "text": x["text"], "pieces": x["pieces"]}
            for x in record["samples"]
        ]
        for record in records
    ]


def _update(
    replay: Replay, epoch: int, p: int, g: int, length: int
) -> dict[str, object]:
    rows = replay.inspection.rows
    of = lambda values: values[epoch, p, g]
    pairs = zip(of(rows.clip_low)[:length], of(rows.clip_high)[:length], strict=True)
    return {
        **{
            name: shortest_float(of(getattr(rows, name)))
            for name in ("loss", "grad_norm", "grad_cosine")
        },
        "ratio": _floats(of(rows.ratio)[:length]),
        "new_log_prob": _floats(of(rows.log_prob)[:length]),
        "weight": _floats(of(rows.weight)[:length]),
        "clipped": ["low" if x else "high" if y else None for x, y in pairs],
    }


def _floats(values: Any) -> Any:
    """A number, or a list of them, each with the fewest digits."""
    array = np.asarray(values)
    if array.ndim == 0:
        return shortest_float(array)
    return [shortest_float(x) for x in array]


def summary(replay: Replay) -> dict[str, object]:
    """A step as one JSON record: its metrics, and what was compared."""
    prompts = replay.inspection.prompts
    return {
        "step": replay.step,
        "start": replay.start,
        "agreement": replay.agreement.to_json(),
        "metrics": replay.metrics,
        "losses": {name: x.to_json() for name, x in replay.losses.items()},
        "prompt_grad_norm": np.asarray(prompts.grad_norm, float).tolist(),
        "prompt_grad_cosine": np.asarray(prompts.grad_cosine, float).tolist(),
        "gradient_signal": np.asarray(prompts.signal, float).tolist(),
        "gradient_noise": np.asarray(prompts.noise, float).tolist(),
    }
