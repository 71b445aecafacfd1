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
