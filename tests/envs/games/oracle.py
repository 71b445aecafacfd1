"""The games in plain Python: what each of them answers to the text of a turn.

Written from the rules, with regular expressions and fractions, and without anything of
`envs.games`.
"""

import re
from collections import Counter
from fractions import Fraction
from typing import NamedTuple


LIMIT = 10**8
DEPTH = 6


class Answer(NamedTuple):
    """The text of the reply, and what is paid; `over` if the game is."""

    reply: str
    valid: bool
    won: bool
    over: bool


class NoValue(Exception):
    """The text has no value."""


class Expression:
    """A recursive-descent evaluator over pairs of integers that are not reduced."""

    def __init__(self, text: str):
        self.tokens = re.findall(r"[0-9.]+|[-+*/()]|[^ ]", text)
        self.place, self.numbers = 0, []

    def peek(self) -> str:
        return self.tokens[self.place] if self.place < len(self.tokens) else ""

    def take(self) -> str:
        token = self.peek()
        self.place += 1
        return token

    def value(self) -> tuple[int, int]:
        found = self.sum(1)
        if self.peek():
            raise NoValue
        return found

    def sum(self, depth: int) -> tuple[int, int]:
        if depth > DEPTH:
            raise NoValue
        sign = 1
        if self.peek() == "-":
            self.take()
            sign = -1
        total = add((0, 1), self.term(depth, sign))
        while self.peek() in ("+", "-"):
            sign = 1 if self.take() == "+" else -1
            total = add(total, self.term(depth, sign))
        return total

    def term(self, depth: int, sign: int) -> tuple[int, int]:
        found = multiply((sign, 1), self.factor(depth))
        while self.peek() in ("*", "/"):
            divides = self.take() == "/"
            other = self.factor(depth)
            if divides:
                over, under = other
                if over == 0:
                    raise NoValue
                other = (under, over) if over > 0 else (-under, -over)
            found = multiply(found, other)
        return found

    def factor(self, depth: int) -> tuple[int, int]:
        token = self.take()
        if token == "(":
            found = self.sum(depth + 1)
            if self.take() != ")":
                raise NoValue
            return found
        if not re.fullmatch(r"[0-9]+\.?[0-9]*|\.[0-9]+", token):
            raise NoValue
        whole, _, part = token.partition(".")
        over, under = int(whole + part), 10 ** len(part)
        self.numbers.append((over, under))
        return below(over), below(under)


def below(number: int) -> int:
    if abs(number) >= LIMIT:
        raise NoValue
    return number


def add(one, other):
    left, right = below(one[0] * other[1]), below(other[0] * one[1])
    return below(left + right), below(one[1] * other[1])


def multiply(one, other):
    return below(one[0] * other[0]), below(one[1] * other[1])


def evaluate(text: str) -> tuple[Fraction | None, list[tuple[int, int]]]:
    """The value, and the numbers that occur; `None` where there is no value."""
    expression = Expression(text)
    try:
        over, under = expression.value()
    except NoValue:
        return None, []
    return Fraction(over, under), expression.numbers


def window(text: bytes, size: int = 64) -> str:
    """What a game reads of a turn, a character for each byte."""
    return text[-size:].decode("latin-1")


def guess_number(game: dict, text: bytes) -> Answer:
    runs = re.findall(r"[0-9]+", window(text))
    guess = int(runs[-1]) if runs and len(runs[-1]) <= 6 else 0
    if not 1 <= guess <= game["largest"]:
        reply = f"A number from 1 to {game['largest']}, please. Guess:"
        return Answer(reply, False, False, False)
    if guess == game["secret"]:
        return Answer("Right.", True, True, True)
    word = "Higher" if guess < game["secret"] else "Lower"
    return Answer(f"{word}. Guess:", True, False, False)


def countdown(game: dict, text: bytes) -> Answer:
    line = window(text).rstrip(" \n\0").rpartition("\n")[2].partition("=")[0]
    value, numbers = evaluate(line)
    if value is None:
        return Answer("That is no expression. Expression:", False, False, False)
    if Counter(numbers) != Counter((x, 1) for x in game["numbers"]):
        return Answer("Use each number once. Expression:", False, False, False)
    if value == game["target"]:
        return Answer("Right.", True, True, True)
    if value.denominator > 1 or not 0 <= value < 100:
        reply = "That is no number from 0 to 99. Expression:"
    else:
        reply = f"That is {value}. Expression:"
    return Answer(reply, True, False, False)


def nim(game: dict, text: bytes) -> Answer:
    runs = re.findall(r"[0-9]+", window(text))
    take = int(runs[-1]) if runs and len(runs[-1]) <= 6 else 0
    if not 1 <= take <= min(3, game["stones"]):
        reply = "Take 1, 2 or 3, and no more than are left. Take:"
        return Answer(reply, False, False, False)
    game["stones"] -= take
    if game["stones"] == 0:
        return Answer("You win.", True, True, True)
    winning = [x for x in (1, 2, 3) if (game["stones"] - x) % 4 == 0]
    take = winning[0] if winning and game["opponent"] == "perfect" else 1
    game["stones"] -= take
    if game["stones"] == 0:
        return Answer(f"I take {take}. I win.", True, False, True)
    return Answer(
        f"I take {take}, {game['stones']} are left. Take:", True, False, False
    )


def sudoku(game: dict, text: bytes) -> Answer:
    ask = "Row, column, digit:"
    found = [int(x) for x in re.findall(r"[0-9]", window(text))[-3:]]
    if len(found) < 3 or not set(found) <= {1, 2, 3, 4}:
        return Answer(f"Three digits from 1 to 4, please. {ask}", False, False, False)
    row, column, digit = found
    rows = [list(game["grid"][i : i + 4]) for i in range(0, 16, 4)]
    if rows[row - 1][column - 1] != ".":
        return Answer(f"That cell is full. {ask}", False, False, False)
    top, left = (row - 1) // 2 * 2, (column - 1) // 2 * 2
    around = {*rows[row - 1], *(x[column - 1] for x in rows)}
    around |= {*rows[top][left : left + 2], *rows[top + 1][left : left + 2]}
    if str(digit) in around:
        return Answer(f"That digit is there already. {ask}", False, False, False)
    rows[row - 1][column - 1] = str(digit)
    game["grid"] = "".join(map("".join, rows))
    if "." not in game["grid"]:
        return Answer("Solved.", True, True, True)
    return Answer(f"Good. {ask}", True, False, False)


def wordle(game: dict, text: bytes) -> Answer:
    runs = re.findall(r"[A-Za-z]+", window(text))
    if not runs or len(runs[-1]) != 5:
        return Answer("Five letters, please. Guess:", False, False, False)
    guess, marks, left = runs[-1].lower(), ["-"] * 5, Counter()
    for place, (own, secret) in enumerate(zip(guess, game["word"], strict=True)):
        if own == secret:
            marks[place] = "G"
        else:
            left[secret] += 1
    for place, letter in enumerate(guess):
        if marks[place] != "G" and left[letter] > 0:
            marks[place] = "Y"
            left[letter] -= 1
    if marks == ["G"] * 5:
        return Answer("Right.", True, True, True)
    return Answer(f"{''.join(marks)}. Guess:", True, False, False)


def call(text: bytes) -> int | None:
    """The bytes up to the first `=` at which a completion calls a calculator."""
    found = re.search(rb"<<[^<>=\n]*=", text)
    return found and found.end()


def calculator(text: bytes) -> str:
    """What a call is answered with."""
    value, _ = evaluate(window(text).rpartition("<")[2][:-1])
    if value is None:
        return "?>>"
    hundredths, rest = divmod(abs(value) * 100, 1)
    whole = int(hundredths) + (rest >= Fraction(1, 2))
    number = f"{whole // 100}.{whole % 100:02}".rstrip("0").rstrip(".")
    return f"{'-' if value < 0 and whole else ''}{number}>>"
