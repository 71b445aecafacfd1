"""Synthetic word problems in the style of GSM8K, generated from a seed.

    row      = {"question": ..., "answer": line* "#### " number}
    line     = number operator number "=" number " " unit "\\n"
    operator = "+" | "-" | "*" | "/"

Every number is between 1 and 99: sums and differences of at most two digits,
products and quotients of the ten times table.
"""

import hashlib
import operator
import random
import re
from typing import NamedTuple

from ._prompts import check_choice


class _Template(NamedTuple):
    """A family of problems.

    **Fields:**

    - `question`: with the names of its numbers in braces.
    - `worked`: the solution, and the program that computes it: each line names two
        known numbers and their result.
    """

    question: str
    worked: str


_TEMPLATES = (
    _Template(
        "{name} has {a} {things} and buys {b} more. "
        "How many {things} does {name} have now?",
        "{a}+{b}={x} {things}",
    ),
    _Template(
        "{name} had {a} {things} and gave {b} to {friend}. "
        "How many {things} does {name} have left?",
        "{a}-{b}={x} {things}",
    ),
    _Template(
        "There are {p} boxes with {q} {things} in each box. "
        "How many {things} are there in all?",
        "{p}*{q}={x} {things}",
    ),
    _Template(
        "{name} shares {a} {things} equally among {p} friends. "
        "How many {things} does each friend get?",
        "{a}/{p}={x} {things}",
    ),
    _Template(
        "{name} has {p} boxes of {q} {things} and buys {a} more. "
        "How many {things} does {name} have in all?",
        "{p}*{q}={x} {things}\n{x}+{a}={y} {things}",
    ),
    _Template(
        "{name} has {a} {things}. {friend} has {b} more than {name}. "
        "How many {things} do they have in all?",
        "{a}+{b}={x} {things}\n{a}+{x}={y} {things}",
    ),
    _Template(
        "{name} has {p} {things}. {friend} has {q} times as many. "
        "How many {things} do they have in all?",
        "{p}*{q}={x} {things}\n{p}+{x}={y} {things}",
    ),
    _Template(
        "{name} has {a} dollars and buys {p} {things} for {q} dollars each. "
        "How many dollars does {name} have left?",
        "{p}*{q}={x} dollars\n{a}-{x}={y} dollars",
    ),
    _Template(
        "A book has {a} pages. {name} reads {b} pages on Monday and {c} on Friday. "
        "How many pages are left?",
        "{b}+{c}={x} pages\n{a}-{x}={y} pages",
    ),
    _Template(
        "There are {a} people on a bus. Then {b} get off and {c} get on. "
        "How many people are on the bus now?",
        "{a}-{b}={x} people\n{x}+{c}={y} people",
    ),
    _Template(
        "{name} shares {a} {things} equally among {p} friends. "
        "Each friend then buys {b} more. How many {things} does each friend have now?",
        "{a}/{p}={x} {things}\n{x}+{b}={y} {things}",
    ),
    _Template(
        "{name} has {a} {things} and {friend} has {b}. "
        "They share them equally among {p} boxes. How many {things} are in each box?",
        "{a}+{b}={x} {things}\n{x}/{p}={y} {things}",
    ),
    _Template(
        "{name} fills {p} bags a day for {q} days and gave {a} bags to {friend}. "
        "Then {name} buys {b} more. How many bags does {name} have now?",
        "{p}*{q}={x} bags\n{x}-{a}={y} bags\n{y}+{b}={z} bags",
    ),
    _Template(
        "{name} buys {p} {things} for {q} dollars each and {r} books for {s} dollars "
        "each. How many dollars is that in all?",
        "{p}*{q}={x} dollars\n{r}*{s}={y} dollars\n{x}+{y}={z} dollars",
    ),
    _Template(
        "{name} has {a} {things} and buys {b} more, {p} in each bag. {name} sells each "
        "bag for {q} dollars. How many dollars does {name} get?",
        "{a}+{b}={x} {things}\n{x}/{p}={y} bags\n{y}*{q}={z} dollars",
    ),
    _Template(
        "{name} has {p} bags of {q} {things}, gave {a} to {friend} and shares what is "
        "left equally among {r} boxes. How many {things} are in each box?",
        "{p}*{q}={x} {things}\n{x}-{a}={y} {things}\n{y}/{r}={z} {things}",
    ),
)
_NAMES = ("Tom", "Anna", "Ben", "Mia", "Sam", "Lily", "Max", "Zoe", "Leo", "Ruth")
_THINGS = ("apples", "pens", "cards", "shells", "eggs", "stamps", "cakes", "coins")
_SMALL, _LARGE = (2, 10), (3, 75)
_LINE = re.compile(r"\{(\w)\}(.)\{(\w)\}=\{(\w)\}")
_OPERATORS = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": operator.floordiv,
}


def _solve(worked: str, numbers: dict[str, int]) -> dict[str, int] | None:
    """The given numbers and the results of the lines, or `None` if one is too hard."""
    known = dict(numbers)
    for left, sign, right, result in _LINE.findall(worked):
        a, b = known[left], known[right]
        known[result] = value = _OPERATORS[sign](a, b)
        if not 1 <= value <= 99:
            return None
        if sign == "*" and max(a, b) > 10:
            return None
        if sign == "/" and (b * value != a or value > 10):
            return None
    return known


def _held_out(problem: int, numbers: dict[str, int]) -> bool:
    """Whether a problem belongs to the test split, as one in eight does.

    It is a hash of the template and the numbers, so two problems that differ only in
    the names of people and things are in the same split.
    """
    content = f"{problem}:{sorted(numbers.items())}".encode()
    return hashlib.blake2b(content, digest_size=8).digest()[0] % 8 == 0


def word_problems(
    count: int, *, split: str = "train", seed: int = 0
) -> list[dict[str, str]]:
    """Generates `count` word problems of one to three steps, drawn with replacement.

    The two splits have no problem in common, for any seeds and counts. The same seed
    gives the same rows; the first rows do not depend on the count.

    **Arguments:**

    - `count`: how many rows.
    - `split`: `"train"` or `"test"`.
    - `seed`: of the random draws.

    **Returns:** rows in GSM8K's format, `{"question": str, "answer": str}`.

    !!! example

        ```python
        row = word_problems(1, seed=1)[0]
        row["answer"].rsplit("#### ", 1)[1].isdigit()  # True
        ```
    """
    if count < 1:
        raise ValueError(
            f"`count` must be at least 1. Received {count}: pass a positive number."
        )
    check_choice("split", split, ("train", "test"))
    draw = random.Random(f"{split}:{seed}")
    rows: list[dict[str, str]] = []
    while len(rows) < count:
        problem = draw.randrange(len(_TEMPLATES))
        rows.append(_one(problem, split == "test", draw))
    return rows


def _one(problem: int, held_out: bool, draw: random.Random) -> dict[str, str]:
    """One row of a template: numbers are drawn until they fit it and the split."""
    template = _TEMPLATES[problem]
    given = sorted(set(re.findall(r"\{(\w)\}", template.question)))
    while True:
        numbers = {x: draw.randint(*(_LARGE if x in "abc" else _SMALL)) for x in given}
        known = _solve(template.worked, numbers)
        if known is not None and _held_out(problem, numbers) == held_out:
            break
    name, friend = draw.sample(_NAMES, 2)
    words = {"name": name, "friend": friend, "things": draw.choice(_THINGS)}
    result = _LINE.findall(template.worked)[-1][-1]
    worked = template.worked.format(**known, **words)
    return {
        "question": template.question.format(**known, **words),
        "answer": f"{worked}\n#### {known[result]}",
    }
