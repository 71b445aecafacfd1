"""Guess the number: the game says whether the secret is higher or lower.

Guess my number, from 1 to 20. Guess: 7
Higher. Guess: 13
"""

import random
from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Int

from grpojax.text import AbstractTokenizer, Bytes

from .options import GuessNumberOptions
from .toolkit import both_splits, Game, last_integer, Move, Row


_LOWER, _HIGHER, _WON, _NO_NUMBER = range(4)


class Secret(NamedTuple):
    """The number to guess, and the largest that it can be."""

    number: Int[Array, ""]
    largest: Int[Array, ""]


class GuessNumber(Game):
    """Guessing a number; a guess is the last run of digits of a turn."""

    def read(self, rows: Sequence[Row]) -> Secret:
        column = lambda name: jnp.array([row[name] for row in rows], jnp.int32)
        return Secret(column("secret"), column("largest"))

    def reply_texts(self, rows: Sequence[Row]) -> list[str]:
        largest = max(row["largest"] for row in rows)
        return [
            "Lower. Guess:",
            "Higher. Guess:",
            "Right.",
            f"A number from 1 to {largest}, please. Guess:",
        ]

    def play(self, game: Secret, text: Bytes) -> tuple[Secret, Move]:
        guess, valid = last_integer(text)
        valid = valid & (guess >= 1) & (guess <= game.largest)
        won = valid & (guess == game.number)
        reply = jnp.where(guess < game.number, _HIGHER, _LOWER)
        reply = jnp.where(won, _WON, jnp.where(valid, reply, _NO_NUMBER))
        return game, Move(reply, valid, won, won)


def environments(
    data: GuessNumberOptions,
    tokenizer: AbstractTokenizer,
    *,
    horizon: int,
    held_out: int | None,
) -> tuple[Game, Game | None, list[str]]:
    """The environments of a recipe with `data.task: games.guess_number`.

    Arguments and results are those of `envs.questions.environments`. The same numbers
    are trained on and evaluated.
    """

    def draw_one(draw: random.Random) -> Row:
        return {
            "question": f"Guess my number, from 1 to {data.largest}. Guess:",
            "secret": draw.randint(1, data.largest),
            "largest": data.largest,
        }

    return both_splits(
        GuessNumber,
        data,
        tokenizer,
        draw_one,
        horizon=horizon,
        held_out=held_out,
        apart=False,
    )
