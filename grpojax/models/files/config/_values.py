"""Values of a config.json, and the errors about them."""

import sys
from collections.abc import Mapping
from typing import NoReturn


def integer(values: Mapping[str, object], key: str, default: int | None = None) -> int:
    """A positive integer, or the default of a key that is absent or null."""
    value = default if values.get(key) is None else values[key]
    if not isinstance(value, int) or isinstance(value, bool) or not 0 < value < 2**31:
        raise ValueError(
            f"`{key}` in config.json must be a positive integer of 32 bits. Received "
            f"{value!r:.80}. Take config.json from where the weights came from."
        )
    return value


def number(
    values: Mapping[str, object], key: str, default: float | None = None
) -> float:
    """A positive number, or the default of a key that is absent or null."""
    value = default if values.get(key) is None else values[key]
    # Python's JSON has NaN, Infinity, and integers of any length.
    if (
        not isinstance(value, int | float)
        or isinstance(value, bool)
        or not 0 < value <= sys.float_info.max
    ):
        raise ValueError(
            f"`{key}` in config.json must be a positive, finite number. Received "
            f"{value!r:.80}. Take config.json from where the weights came from."
        )
    return float(value)


def switch(values: Mapping[str, object], key: str) -> bool:
    """A boolean; false if the key is absent or null."""
    value = values.get(key)
    if value not in (True, False, None) or isinstance(value, int | float) != isinstance(
        value, bool
    ):
        refuse(key, value, False)
    return bool(value)


def refuse(key: str, value: object, implemented: object) -> NoReturn:
    """The error for a key that would change the arithmetic."""
    raise ValueError(
        f"`{key}` = {value!r} in config.json changes the arithmetic in a way that is "
        f"not implemented; only {implemented!r} is. Such a model cannot be loaded."
    )
