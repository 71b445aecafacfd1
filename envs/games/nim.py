"""Nim against a scripted opponent: who takes the last stone wins.

There are 7 stones. We take 1, 2 or 3 in turn; who takes the last one wins. Take: 3
I take 1, 3 are left. Take: 3
"""

import random
from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int

from grpojax.text import AbstractTokenizer, Bytes

from .options import NimOptions
from .toolkit import both_splits, Game, last_integer, Move, Row


_MOST = 3
_WON, _INVALID, _FIRST = range(3)  # Then a reply for each move and heap.


class Heap(NamedTuple):
    """The stones that are left, and whether the opponent is perfect."""

    stones: Int[Array, ""]
    perfect: Bool[Array, ""]


class Nim(Game):
    """Nim with one heap; how many stones to take is the last run of digits of a turn.

    The opponent takes what leaves a multiple of four if it can, else one stone; or
    always one.
    """

    def read(self, rows: Sequence[Row]) -> Heap:
        perfect = [row["opponent"] == "perfect" for row in rows]
        stones = np.array([row["stones"] for row in rows], np.int32)
        return Heap(jnp.asarray(stones), jnp.asarray(perfect))

    def reply_texts(self, rows: Sequence[Row]) -> list[str]:
        most = max(row["stones"] for row in rows)
        told = lambda take, left: (
            f"I take {take}, {left} are left. Take:"
            if left
            else f"I take {take}. I win."
        )
        moves = [
            told(take, left) for left in range(most + 1) for take in range(1, _MOST + 1)
        ]
        return ["You win.", "Take 1, 2 or 3, and no more than are left. Take:", *moves]

    def play(self, game: Heap, text: Bytes) -> tuple[Heap, Move]:
        take, valid = last_integer(text)
        valid = valid & (take >= 1) & (take <= jnp.minimum(_MOST, game.stones))
        stones = game.stones - jnp.where(valid, take, 0)
        won = valid & (stones == 0)
        best = stones % (_MOST + 1)
        answer = jnp.where(game.perfect & (best > 0), best, 1)
        left = jnp.maximum(stones - answer, 0)
        reply = jnp.where(valid, _FIRST + left * _MOST + answer - 1, _INVALID)
        reply = jnp.where(won, _WON, reply)
        after = Heap(jnp.where(valid & ~won, left, stones), game.perfect)
        return after, Move(reply, valid, won, won | (valid & (left == 0)))


def environments(
    data: NimOptions,
    tokenizer: AbstractTokenizer,
    *,
    horizon: int,
    held_out: int | None,
) -> tuple[Game, Game | None, list[str]]:
    """The environments of a recipe with `data.task: games.nim`.

    Arguments and results are those of `envs.questions.environments`. Every heap can be
    won; the same ones are trained on and evaluated.
    """

    def draw_one(draw: random.Random) -> Row:
        heaps = [x for x in range(_MOST + 2, data.stones + 1) if x % (_MOST + 1)]
        stones = draw.choice(heaps or [_MOST])
        return {
            "question": f"There are {stones} stones. We take 1, 2 or 3 in turn; who "
            "takes the last one wins. Take:",
            "stones": stones,
            "opponent": data.opponent,
        }

    return both_splits(
        Nim,
        data,
        tokenizer,
        draw_one,
        horizon=horizon,
        held_out=held_out,
        apart=False,
    )
