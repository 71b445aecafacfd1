"""Prompts of examples: `full`, in the origin's blocks, and `compact`."""

from collections.abc import Mapping
from typing import Any

from .origin import Example


VIDEO, DIRECTION, VALUE, BOTH = "video", "direction", "value", "both"
"""What a prompt asks for."""

_WHICH = (
    "Which of the options is watched next? Write its number: <answer>NUMBER</answer>"
)
_MOVED = (
    "Will the opinion increase, decrease, or stay the same? Write one of "
    "<opinion>increase</opinion>, <opinion>decrease</opinion> and "
    "<opinion>no_change</opinion>"
)
_PLACE = (
    "What is the opinion afterwards, from 0 to 100? Write an integer: "
    "<answer>INTEGER</answer>"
)
_QUESTIONS = {
    VIDEO: [_WHICH],
    DIRECTION: [_MOVED],
    VALUE: [_PLACE],
    BOTH: [_WHICH, _MOVED],
}
_SIDES = {
    "gun_control": "stricter gun laws",
    "minimum_wage": "a higher minimum wage",
}


def full(example: Example, asks: str, *, max_history: int) -> str:
    """The blocks of the origin, with a line for whatever is not known.

    **Arguments:**

    - `example`: of the row.
    - `asks`: `"video"`, `"direction"`, `"value"` or `"both"`.
    - `max_history`: how many of the videos watched before are shown.
    """
    title, channel = example.current
    issue = str(example.ids["issue"])
    known = None if example.before is None else round(100 * example.before)
    opinion = f"{known} of 100 in favor of {_SIDES.get(issue, issue)}"
    watched = example.watched[-max_history:] if max_history else []
    current = f"{title} (from {channel or 'an unknown channel'})"
    questions = [f"{n}. {x}." for n, x in enumerate(_QUESTIONS[asks], 1)]
    blocks = {
        "VIEWER": [
            example.profile or "(profile unavailable)",
            f"Initial Viewpoint: {'(unavailable)' if known is None else opinion}",
        ],
        "CURRENTLY WATCHING": [current if title else "(current video unavailable)"],
        "RECENTLY WATCHED (NEWEST LAST)": [
            f"{n}. {_watched(item)}" for n, item in enumerate(watched, 1)
        ]
        or ["(no earlier videos)"],
        "SURVEY HIGHLIGHTS": [example.highlights or "(survey unavailable)"],
    }
    if asks in (DIRECTION, VALUE):
        chosen = example.slate[(example.gold_index or 1) - 1]
        there = example.gold_index is not None
        blocks["WATCHED NEXT"] = [option(chosen) if there else "(unavailable)"]
    else:
        lines = [f"{n}. {option(item)}" for n, item in enumerate(example.slate, 1)]
        blocks["OPTIONS"] = lines
    blocks["QUESTIONS"] = questions
    return "\n\n".join("\n".join([name, *lines]) for name, lines in blocks.items()) + (
        "\n\nANSWER\n"
    )


def option(item: Mapping[str, Any]) -> str:
    """The line of an option, without its number."""
    channel = item.get("channel_title") or "unknown channel"
    seconds = item.get("length_seconds")
    length = "length unknown" if seconds is None else f"{round(float(seconds))}s long"
    counts = [
        f"{name} {_count(item.get(key))}"
        for name, key in (
            ("views", "view_count"),
            ("likes", "like_count"),
            ("comments", "comment_count"),
        )
    ]
    title = item.get("title") or "(title unavailable)"
    return f"{title} ({channel}, {length}) - Engagement: {', '.join(counts)}"


def compact(example: Example, asks: str) -> str:
    """At most 160 bytes, with all that generated choices and opinions depend on.

        S+2 A:302041 C:b B:63 K:3 | 1)7+1ab 2)4-2cc Q?

    `S` is the stance from -3 to 3, `A` the interest in each of six topics, `C` the
    favorite channel, `B` the opinion before and `K` the susceptibility. An option is
    its views, its stance, its topic and its channel. What is asked for decides what is
    shown; `Q?` asks for the option, `O?` for the direction or the place, `QO?` for the
    option and the direction.

    **Raises:** `ValueError` for a row that was not generated.
    """
    traits = example.traits
    if traits is None:
        raise ValueError(
            "it has no 'traits_json', which generated rows have and a compact prompt "
            "shows: set `data.template: full`"
        )
    opinion = f"B:{traits['before']} K:{traits['susceptibility']}"
    if asks in (DIRECTION, VALUE):
        chosen = example.slate[(example.gold_index or 1) - 1]
        return f"{opinion} W:{chosen['stance']:+d} O?"
    likes = "".join(map(str, traits["affinity"]))
    taste = f"S{traits['stance']:+d} A:{likes} C:{_letter(traits['channel'])}"
    history = ",".join(
        f"{_letter(x['topic'])}{x['stance']:+d}" for x in example.watched
    )
    options = " ".join(
        f"{n}){x['views']}{x['stance']:+d}{_letter(x['topic'])}{_letter(x['channel'])}"
        for n, x in enumerate(example.slate, 1)
    )
    viewer = f"{taste} H:{history or '-'}"
    if asks == BOTH:
        return f"{viewer} {opinion} | {options} QO?"
    return f"{viewer} | {options} Q?"


def _letter(number: int) -> str:
    return "abcdefgh"[number]


def _count(value: object) -> str:
    known = isinstance(value, int | float)
    return f"{round(value):,}" if known else "unknown"


def _watched(item: Mapping[str, Any]) -> str:
    title = item.get("title") or "(title unavailable)"
    seconds, length = item.get("watch_seconds"), item.get("total_length")
    if seconds is None:
        how = "watch time unavailable"
    elif not length:
        how = f"watched {round(float(seconds))}s"
    else:
        share = round(100 * float(seconds) / float(length))
        how = f"watched {round(float(seconds))}s of {round(float(length))}s ({share}% "
        how += "complete)"
    channel = item.get("channel_title") or item.get("channel") or "an unknown channel"
    return f"{title} ({how}, from {channel})"
