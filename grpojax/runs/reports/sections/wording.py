"""Numbers and settings as text."""

import json
from collections.abc import Mapping

from ..analysis import Change, Interval
from ..document import Line, Strong


def percent(value: float) -> str:
    """A share in percent, to one decimal."""
    return f"{100 * value:.1f}%"


def percent_interval(interval: Interval) -> str:
    """An interval of shares in percent."""
    return f"{percent(interval[0])} to {percent(interval[1])}"


def points(value: float) -> str:
    """A signed difference of shares in percentage points."""
    return f"{100 * value:+.1f}"


def points_interval(interval: Interval) -> str:
    """An interval of differences in percentage points."""
    return f"{points(interval[0])} to {points(interval[1])}"


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


def change_sentence(change: Change) -> Line:
    """What changed, the interval of the change, and its method."""
    before, after = change.before.accuracy, change.after.accuracy
    verb = "rose" if change.difference > 0 else "fell"
    verb = "stayed" if change.difference == 0 else verb
    answer = {
        1: "Yes, accuracy rose.",
        -1: "No, accuracy fell.",
        0: "Not significant: the difference may be chance.",
    }[change.direction]
    certain = change.direction != 0
    test, verdict = "", "the interval " + ("excludes" if certain else "includes")
    if change.p_value is not None:
        test = f"; sign test (McNemar's), p = {change.p_value:.2g}"
        verdict = "both exclude" if certain else "they do not both exclude"
    return [
        Strong(answer),
        f" {change.after.label.capitalize()}: accuracy {verb} from ",
        Strong(percent(before.value)),
        f" (95% interval {percent_interval(before.interval)}) at step 0 to ",
        Strong(percent(after.value)),
        f" ({percent_interval(after.interval)}) at step {change.after.step}, n = "
        f"{after.n:,} each. The difference is {points(change.difference)} points, 95% "
        f"interval {points_interval(change.interval)} ({change.method}{test}): "
        f"{verdict} zero change.",
    ]
