"""Texts of models and of users on a terminal; needs no JAX."""

import re


_CONTROLS = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]"
)


def printable(text: str) -> str:
    """Text whose control characters are spelled out, except tabs and line breaks.

    A model may write any: an escape sequence moves the cursor, renames the window or
    hides what comes next, and a bidirectional mark reorders a line.
    """
    return _CONTROLS.sub(lambda found: ascii(found[0])[1:-1], text)


MOST_CHARACTERS = 3000
"""Of a message: about a screen."""


def message(text: str) -> str:
    """A `printable` message of at most a screen: a value that it quotes may be a file.

    Both ends stay, since a sentence begins with what is wrong and ends with what to do.
    """
    if len(text) > MOST_CHARACTERS:
        half = MOST_CHARACTERS // 2
        left_out = len(text) - 2 * half
        text = f"{text[:half]} [... {left_out:,} characters ...] {text[-half:]}"
    return printable(text)
