"""Numbers and settings as text."""

import json
from collections.abc import Mapping

from ..analysis.intervals import Interval


def percent(value: float | Interval) -> str:
    """A share in percent to one decimal, or an interval of shares."""
    if isinstance(value, tuple):
        return " to ".join(map(percent, value))
    return f"{100 * value:.1f}%"


def points(value: float | Interval) -> str:
    """A difference of shares in percentage points with its sign, or an interval."""
    if isinstance(value, tuple):
        return " to ".join(map(points, value))
    return f"{100 * value:+.1f}"


def amount(value: float | Interval, is_share: bool) -> str:
    """A share in percent, or a reward as a number; or an interval of these."""
    if is_share:
        return percent(value)
    if isinstance(value, tuple):
        return " to ".join(amount(x, is_share) for x in value)
    return f"{value:.4g}"


def gap(value: float | Interval, is_share: bool) -> str:
    """A difference of shares in points, or of rewards; or an interval of these."""
    if is_share:
        return points(value)
    if isinstance(value, tuple):
        return " to ".join(gap(x, is_share) for x in value)
    return f"{value:+.4g}"


def setting_text(value: object) -> str:
    """The value of a setting: a text as it is, a part as a call, others as JSON.

    !!! example

        ```python
        setting_text({"name": "cosine", "peak": 1e-4})  # "cosine(peak=0.0001)"
        ```
    """
    if isinstance(value, str):
        return value
    if isinstance(value, Mapping):
        arguments = ", ".join(
            f"{key}={setting_text(inner)}"
            for key, inner in value.items()
            if key != "name"
        )
        name = value.get("name")
        if not isinstance(name, str):
            return arguments
        return f"{name}({arguments})" if arguments else name
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(setting_text, value))}]"
    return json.dumps(value, ensure_ascii=False, default=str)
