"""Arguments that are one of a few words."""

from collections.abc import Sequence


def check_choice(name: str, value: str, choices: Sequence[str]) -> None:
    """Raises a `ValueError` unless a value is one of its choices."""
    if value not in choices:
        known = " or ".join(map(repr, choices))
        raise ValueError(f"`{name}` must be {known}. Received {value!r}.")
