"""The options of the games: the keys of a recipe's section `data`."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class GameOptions:
    """What all games have in common.

    **Fields:**

    - `train_rows`: how many problems to train on, made from the seed.
    - `seed`: of the problems.
    - `turns`: the most turns of the model in a conversation.
    - `chat`: prompts and replies by the tokenizer's chat template instead of plain
        text, in which a newline ends a turn.
    - `system_prompt`: instructions in front of every prompt.

    **Raises:** `ValueError` for a number out of range, by its key in a recipe.
    """

    train_rows: int = 4096
    seed: int = 0
    turns: int = 6
    chat: bool = False
    system_prompt: str | None = None

    def __post_init__(self):
        check_between("train_rows", self.train_rows, 1, 2**24)
        check_between("turns", self.turns, 2, 64)

    @property
    def curriculum(self) -> str:
        """What a recipe asks by default: generated problems have no epochs."""
        return "Uniform"


@dataclass(frozen=True)
class GuessNumberOptions(GameOptions):
    """The task `games.guess_number`.

    **Fields:** besides those of `GameOptions`,

    - `largest`: the secret is between 1 and this number.
    """

    largest: int = 20

    def __post_init__(self):
        super().__post_init__()
        check_between("largest", self.largest, 2, 10_000)


@dataclass(frozen=True)
class CountdownOptions(GameOptions):
    """The task `games.countdown`.

    **Fields:** besides those of `GameOptions`,

    - `numbers`: how many numbers a problem has.
    - `largest`: no number and no target is above it.
    """

    turns: int = 3
    numbers: int = 3
    largest: int = 50

    def __post_init__(self):
        super().__post_init__()
        check_between("numbers", self.numbers, 2, 4)
        check_between("largest", self.largest, 10, 99)


@dataclass(frozen=True)
class SudokuOptions(GameOptions):
    """The task `games.sudoku`.

    **Fields:** besides those of `GameOptions`,

    - `blanks`: cells to fill; a turn fills one.
    """

    turns: int = 6
    blanks: int = 4

    def __post_init__(self):
        super().__post_init__()
        check_between("blanks", self.blanks, 1, 10)
        if self.turns < self.blanks:
            raise ValueError(
                "A turn fills one cell, so `data.turns` is at least `data.blanks`. "
                f"Received turns={self.turns} and blanks={self.blanks}."
            )


@dataclass(frozen=True)
class WordleOptions(GameOptions):
    """The task `games.wordle`, which has the keys of `GameOptions`."""


@dataclass(frozen=True)
class NimOptions(GameOptions):
    """The task `games.nim`.

    **Fields:** besides those of `GameOptions`,

    - `stones`: the most stones of the heap at the beginning.
    - `opponent`: takes what wins if anything does (`perfect`), or always one (`one`).
    """

    turns: int = 8
    stones: int = 15
    opponent: Literal["perfect", "one"] = "perfect"

    def __post_init__(self):
        super().__post_init__()
        check_between("stones", self.stones, 4, 99)


@dataclass(frozen=True)
class CalculatorOptions:
    """The task `games.calculator`: word problems, with a calculator inside the turns.

    **Fields:**

    - `path`, `eval_path`, `train_rows`, `bad_rows`, `long_prompts`,
        `max_prompt_length`, `chat`, `system_prompt`: as those of `gsm8k`.
    - `calls`: how often a completion may call the calculator.

    **Raises:** `ValueError` for a number out of range, by its key in a recipe.
    """

    path: str = "word-problems"
    eval_path: str | None = None
    train_rows: int | None = None
    bad_rows: Literal["raise", "skip"] = "raise"
    long_prompts: Literal["raise", "skip"] = "raise"
    max_prompt_length: int | None = None
    chat: bool = False
    system_prompt: str | None = None
    calls: int = 8

    def __post_init__(self):
        check_between("calls", self.calls, 1, 64)
        if self.train_rows is not None:
            check_between("train_rows", self.train_rows, 1, 2**24)

    @property
    def curriculum(self) -> str:
        """What a recipe asks by default: generated problems have no epochs."""
        return "Uniform" if self.path == "word-problems" else "ShuffledEpochs"


GAMES = {
    "games.calculator": CalculatorOptions,
    "games.countdown": CountdownOptions,
    "games.guess_number": GuessNumberOptions,
    "games.nim": NimOptions,
    "games.sudoku": SudokuOptions,
    "games.wordle": WordleOptions,
}
"""The options of each game, by the name that a recipe gives the task."""


def check_between(key: str, value: int, least: int, most: int) -> None:
    """Raises a `ValueError` for a number out of range."""
    if not least <= value <= most:
        raise ValueError(
            f"`data.{key}` must be between {least} and {most}. Received {value}."
        )
