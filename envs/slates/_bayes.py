"""What the best policy reaches, of generated rows."""

import math

from .origin import Example
from .templates import BOTH, DIRECTION, VALUE, VIDEO


def bayes(example: Example, asks: str, tolerance: float) -> dict[str, float]:
    """The chances of the best answers to a generated row, which knows its own odds.

    **Arguments:**

    - `example`: of the row.
    - `asks`: what its prompt asks for.
    - `tolerance`: a change of opinion of no more than this is none.

    **Returns:** `bayes_accuracy`, the chance that the best answer is right, and of
    opinions in numbers `bayes_mae`, the mean distance from the best one; nothing of a
    row that was not generated.
    """
    truth = example.truth
    if truth is None or example.before is None or example.gold_index is None:
        return {}
    chances, noise = truth["probabilities"], truth["noise"]
    mean = truth["means"][example.gold_index - 1]
    before = round(100 * example.before)
    moves = lambda mean: _moves(mean, noise, before, tolerance)
    if asks == VIDEO:
        return {"bayes_accuracy": max(chances)}
    if asks == DIRECTION:
        return {"bayes_accuracy": max(moves(mean))}
    if asks == VALUE:
        return {"bayes_mae": _mae(mean, noise)}
    assert asks == BOTH
    each = [moves(x) for x in truth["means"]]
    pairs = [p * q for p, row in zip(chances, each, strict=True) for q in row]
    ahead = [
        sum(p * row[move] for p, row in zip(chances, each, strict=True))
        for move in range(3)
    ]
    return {
        "bayes_accuracy": max(pairs),
        "bayes_video": max(chances),
        "bayes_opinion": max(ahead),
    }


def _moves(mean: float, noise: float, before: int, tolerance: float) -> list[float]:
    """The chances of a decrease, of no change and of an increase."""
    least = math.floor(100 * tolerance + 1e-6) + 1
    up, down = before + least, before - least
    rises = 0.0 if up > 100 else 1 - _below(up, mean, noise)
    falls = 0.0 if down < 0 else _below(down + 1, mean, noise)
    return [falls, max(1 - rises - falls, 0.0), rises]


def _mae(mean: float, noise: float) -> float:
    """The mean distance of opinions from their median, both rounded to hundredths."""
    below = [_below(place, mean, noise) for place in range(1, 101)]
    return sum(min(x, 1 - x) for x in below) / 100


def _below(place: int, mean: float, noise: float) -> float:
    """The chance that the opinion, rounded, is below so many hundredths."""
    away = ((place - 0.5) / 100 - mean) / noise
    return 0.5 * (1 + math.erf(away / math.sqrt(2)))
