"""Sudoku of four rows, four columns and four boxes; a turn fills one cell.

12.4
34.2 ...
Row, column, digit: 1 3 3
Good. Row, column, digit: 2 3 1
"""

import functools as ft
import itertools
import random
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from grpojax.text import AbstractTokenizer, Bytes

from .options import SudokuOptions
from .toolkit import both_splits, Game, is_digit, last_bytes, Move, Row


_GOOD, _WON, _INVALID, _TAKEN, _CONFLICT = range(5)

_CELLS = [(row, column) for row in range(4) for column in range(4)]
_SEES = np.array(
    [
        [a == c or b == d or (a // 2, b // 2) == (c // 2, d // 2) for c, d in _CELLS]
        for a, b in _CELLS
    ]
)
"""Whether two cells share a row, a column or a box."""


class Sudoku(Game):
    """Sudoku of four by four: row, column and digit are a turn's last three digits.

    A cell is filled if the rules allow it, which may lead to a grid that nobody can
    complete.
    """

    def read(self, rows: Sequence[Row]) -> Int[np.ndarray, "problem cell"]:
        grids = [[int(x) for x in row["grid"].replace(".", "0")] for row in rows]
        return np.array(grids, np.int32)

    def reply_texts(self, rows: Sequence[Row]) -> list[str]:
        del rows
        ask = "Row, column, digit:"
        return [
            f"Good. {ask}",
            "Solved.",
            f"Three digits from 1 to 4, please. {ask}",
            f"That cell is full. {ask}",
            f"That digit is there already. {ask}",
        ]

    def play(self, game: Int[Array, " cell"], text: Bytes):
        row, column, digit = last_bytes(text, is_digit(text.data), 3) - ord("0")
        within = lambda x: (x >= 1) & (x <= 4)
        valid = within(row) & within(column) & within(digit)
        cell = jnp.where(valid, (row - 1) * 4 + column - 1, 0)
        is_free = game[cell] == 0
        fits = ~jnp.any(jnp.asarray(_SEES)[cell] & (game == digit))
        valid_move = valid & is_free & fits
        after = jnp.where(valid_move, game.at[cell].set(digit), game)
        won = valid_move & jnp.all(after > 0)
        reply = jnp.where(is_free, jnp.where(fits, _GOOD, _CONFLICT), _TAKEN)
        reply = jnp.where(valid, reply, _INVALID)
        return after, Move(jnp.where(won, _WON, reply), valid_move, won, won)


@ft.lru_cache(maxsize=4096)
def solutions(grid: str) -> tuple[str, ...]:
    """The ways to complete a grid of 16 characters; `.` is a blank."""
    if "." not in grid:
        return (grid,)
    cell = grid.index(".")
    around = {grid[other] for other in range(16) if _SEES[cell, other]}
    free = [digit for digit in "1234" if digit not in around]
    tried = (grid[:cell] + digit + grid[cell + 1 :] for digit in free)
    return tuple(itertools.chain.from_iterable(map(solutions, tried)))


def draw_puzzle(draw: random.Random, blanks: int) -> Row:
    """A puzzle with one solution."""
    grids = solutions("1234" + "." * 12)
    while True:
        digits = dict(zip("1234", draw.sample("1234", 4), strict=True))
        solved = "".join(digits[x] for x in draw.choice(grids))
        gone = set(draw.sample(range(16), blanks))
        grid = "".join("." if i in gone else x for i, x in enumerate(solved))
        if len(solutions(grid)) == 1:
            break
    lines = "\n".join(grid[i : i + 4] for i in range(0, 16, 4))
    question = f"Every row, column and box has 1 to 4.\n{lines}\nRow, column, digit:"
    return {"question": question, "grid": grid, "solution": solved}


def environments(
    data: SudokuOptions,
    tokenizer: AbstractTokenizer,
    *,
    horizon: int,
    held_out: int | None,
) -> tuple[Game, Game | None, list[str]]:
    """The environments of a recipe with `data.task: games.sudoku`.

    Arguments and results are those of `envs.questions.environments`.
    """
    draw_one = lambda draw: draw_puzzle(draw, data.blanks)
    return both_splits(
        Sudoku, data, tokenizer, draw_one, horizon=horizon, held_out=held_out
    )
