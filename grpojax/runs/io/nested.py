"""Nested mappings with dotted keys."""

from collections.abc import Mapping


def flatten(values: Mapping, prefix: str = "") -> dict[str, object]:
    """Nested mappings as one, from dotted keys to values; lists are values.

    !!! example

        ```python
        flatten({"run": {"steps": 50, "seed": 0}})  # {"run.steps": 50, "run.seed": 0}
        ```
    """
    flat: dict[str, object] = {}
    for key, value in values.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{name}.")
        else:
            flat[name] = value
    return flat
