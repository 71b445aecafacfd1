"""Numbers and settings as text."""

import json
from collections.abc import Callable, Mapping

from ..analysis.intervals import Interval


def percent(value: float | Interval) -> str:
    """A share in percent to one decimal, or an interval of shares."""
    return _joined(value, lambda x: f"{100 * x:.1f}%")


def points(value: float | Interval) -> str:
    """A difference of shares in percentage points with its sign, or an interval."""
    return _joined(value, lambda x: f"{100 * x:+.1f}")


def amount(value: float | Interval, is_share: bool) -> str:
    """A share in percent, or a reward as a number; or an interval of these."""
    return percent(value) if is_share else _joined(value, lambda x: f"{x:.4g}")


def gap(value: float | Interval, is_share: bool) -> str:
    """A difference of shares in points, or of rewards; or an interval of these."""
    return points(value) if is_share else _joined(value, lambda x: f"{x:+.4g}")


def _joined(value: float | Interval, text: Callable[[float], str]) -> str:
    return " to ".join(map(text, value)) if isinstance(value, tuple) else text(value)


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
