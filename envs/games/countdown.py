"""Countdown: an expression of given numbers that makes a target.

Make 24 from 3, 8 and 1, each used once. Expression: 3*8+1
That is 25. Expression: 3*8/1
"""

import random
from collections.abc import Sequence
from fractions import Fraction
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from grpojax.text import AbstractTokenizer, Bytes

from .options import CountdownOptions
from .toolkit import both_splits, evaluate, Game, last, Move, positions, Row


_MOST_NUMBERS = 4
_TOLD = 100
"""Values below this are told to the model."""

_WON, _NO_EXPRESSION, _OTHER_NUMBERS, _OTHER_VALUE = range(_TOLD, _TOLD + 4)


class Problem(NamedTuple):
    """The numbers, padded with 0, and the target."""

    numbers: Int[Array, " number"]
    target: Int[Array, ""]


class Countdown(Game):
    """Countdown: the expression is the last line of a turn, up to its first `=`.

    It is evaluated exactly, in fractions.
    """

    def read(self, rows: Sequence[Row]) -> Problem:
        numbers = np.zeros((len(rows), _MOST_NUMBERS), np.int32)
        for own, row in zip(numbers, rows, strict=True):
            own[: len(row["numbers"])] = row["numbers"]
        targets = jnp.array([row["target"] for row in rows], jnp.int32)
        return Problem(jnp.asarray(numbers), targets)

    def reply_texts(self, rows: Sequence[Row]) -> list[str]:
        del rows
        return [
            *(f"That is {value}. Expression:" for value in range(_TOLD)),
            "Right.",
            "That is no expression. Expression:",
            "Use each number once. Expression:",
            f"That is no number from 0 to {_TOLD - 1}. Expression:",
        ]

    def play(self, game: Problem, text: Bytes) -> tuple[Problem, Move]:
        place, data = positions(text), text.data
        blank = (data == ord(" ")) | (data == ord("\n"))
        end = last(~blank & (place < text.length)) + 1
        begin = last((data == ord("\n")) & (place < end)) + 1
        equals = (data == ord("=")) & (place >= begin)
        end = jnp.minimum(end, jnp.min(jnp.where(equals, place, data.shape[0])))
        found = evaluate(data, begin, end, game.numbers)
        over, under = found.value
        valid = found.valid & found.uses
        won = valid & (over == game.target * under)
        told = (over % under == 0) & (over >= 0) & (over < _TOLD * under)
        reply = jnp.where(told, jnp.clip(over // under, 0, _TOLD - 1), _OTHER_VALUE)
        reply = jnp.where(found.uses, reply, _OTHER_NUMBERS)
        reply = jnp.where(found.valid, reply, _NO_EXPRESSION)
        return game, Move(jnp.where(won, _WON, reply), valid, won, won)


def draw_problem(draw: random.Random, numbers: int, largest: int) -> Row:
    """A problem that has a solution, which its column `solution` shows."""
    while True:
        given = [draw.randint(1, largest) for _ in range(numbers)]
        values = [(Fraction(x), str(x)) for x in given]
        while len(values) > 1:
            (one, left), (other, right) = draw.sample(values, 2)
            values.remove((one, left))
            values.remove((other, right))
            sign = draw.choice("+-*/" if other else "+-*")
            made = {"+": one + other, "-": one - other, "*": one * other}
            value = one / other if sign == "/" else made[sign]
            values.append((value, f"({left}{sign}{right})"))
        target, solution = values[0]
        if target.denominator == 1 and 1 <= target <= largest and target not in given:
            solution = solution[1:-1]
            break
    some = ", ".join(map(str, given[:-1]))
    question = f"Make {target} from {some} and {given[-1]}, each used once. Expression:"
    return {
        "question": question,
        "numbers": given,
        "target": int(target),
        "solution": solution,
    }


def environments(
    data: CountdownOptions,
    tokenizer: AbstractTokenizer,
    *,
    horizon: int,
    held_out: int | None,
) -> tuple[Game, Game | None, list[str]]:
    """The environments of a recipe with `data.task: games.countdown`.

    Arguments and results are those of `envs.questions.environments`.
    """
    draw_one = lambda draw: draw_problem(draw, data.numbers, data.largest)
    return both_splits(
        Countdown, data, tokenizer, draw_one, horizon=horizon, held_out=held_out
    )
