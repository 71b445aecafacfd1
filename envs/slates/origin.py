"""Examples of rows in the origin's columns."""

import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from ._viewers import SCALES


_GOLD = ("next_video_id", "clicked_id", "video_id", "label", "answer")


class Example(NamedTuple):
    """What a row says, by A viewer's step; what it does not say is `None`.

    **Fields:**

    - `ids`: the columns `uid`, `issue`, `participant_study`, `participant_id` and
        `step_index`.
    - `slate`: the items, each with a `title`.
    - `gold_index`: the number of the chosen one, from 1 on.
    - `before`, `after`: opinions in [0, 1].
    - `current`: the title and the channel of the current video.
    - `watched`: the videos before it, the newest last.
    - `profile`, `highlights`: texts about the viewer.
    - `traits`, `truth`: of a generated row, what it was made from.
    """

    ids: dict[str, object]
    slate: list[Mapping[str, Any]]
    gold_index: int | None
    before: float | None
    after: float | None
    current: tuple[str | None, str | None]
    watched: list[Mapping[str, Any]]
    profile: str | None
    highlights: str | None
    traits: Mapping[str, Any] | None
    truth: Mapping[str, Any] | None


def read_example(row: Mapping[str, object]) -> Example:
    """The example of a row.

    The chosen video is that of the first of the columns `next_video_id`, `clicked_id`,
    `video_id`, `label` and `answer` that is not empty, by its id, else by its title,
    of which letters and digits are compared.

    **Raises:** `ValueError` without a slate, or for columns that cannot be read.
    """
    slate = _items(row, "slate_items_json")
    if not slate:
        raise ValueError("its 'slate_items_json' has no options")
    study = str(row.get("participant_study"))
    before, after = SCALES.get(study, ("", ""))
    number = row.get("step_index")
    return Example(
        ids={
            "uid": row.get("uid"),
            "issue": row.get("issue"),
            "participant_study": study,
            "participant_id": str(row.get("participant_id")),
            "step_index": _number(number) or 0.0,
        },
        slate=slate,
        gold_index=_gold_index(row, slate),
        before=_opinion(row, before),
        after=_opinion(row, after),
        current=(
            _text(row.get("current_video_title")),
            _text(row.get("current_video_channel")),
        ),
        watched=_items(row, "watched_detailed_json"),
        profile=_text(row.get("viewer_profile")),
        highlights=_text(row.get("survey_highlights")),
        traits=_mapping(row, "traits_json"),
        truth=_mapping(row, "truth_json"),
    )


def direction_of(
    before: float | None, after: float | None, tolerance: float
) -> str | None:
    """`increase`, `decrease` or `no_change`; `None` if an opinion is not known.

    **Arguments:**

    - `before`, `after`: in [0, 1].
    - `tolerance`: a change of no more than this is none.
    """
    if before is None or after is None:
        return None
    change, least = after - before, tolerance + 1e-6
    return (
        "increase"
        if change > least
        else "decrease"
        if change < -least
        else ("no_change")
    )


def _gold_index(
    row: Mapping[str, object], slate: Sequence[Mapping[str, Any]]
) -> int | None:
    gold = next((x for x in map(_text, map(row.get, _GOLD)) if x), None)
    if gold is None:
        return None
    titles = [gold, _text(row.get("next_video_title"))]
    plain = {_plain(x) for x in titles if x} - {""}
    by_id = [i for i, item in enumerate(slate, 1) if str(item.get("id")) == gold]
    by_title = [i for i, x in enumerate(slate, 1) if _plain(x.get("title")) in plain]
    return next(iter(by_id + by_title), None)


def _plain(title: object) -> str:
    return re.sub(r"[^a-z0-9]", "", str(title).lower())


def _items(row: Mapping[str, object], column: str) -> list[Mapping[str, Any]]:
    value = _parsed(row, column)
    if value is None:
        return []
    if not isinstance(value, Sequence) or not all(
        isinstance(x, Mapping) for x in value
    ):
        raise ValueError(f"its {column!r} is not a list of objects: {value!r:.80}")
    return list(value)


def _mapping(row: Mapping[str, object], column: str) -> Mapping[str, Any] | None:
    value = _parsed(row, column)
    return value if isinstance(value, Mapping) else None


def _parsed(row: Mapping[str, object], column: str) -> Any:
    value: Any = row.get(column)
    if hasattr(value, "tolist"):  # Of a file of columns.
        value = value.tolist()
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value) if value.strip() else None
    except ValueError as error:
        raise ValueError(
            f"its {column!r} is no JSON ({error}): {value!r:.80}"
        ) from None


def _opinion(row: Mapping[str, object], column: str) -> float | None:
    value = _number(row.get(column))
    if value is not None and not 0 <= value <= 1:
        raise ValueError(
            f"its {column!r} must be in [0, 1], the one scale of opinions, and is "
            f"{value}"
        )
    return value


def _number(value: Any) -> float | None:
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None


def _text(value: object) -> str | None:
    number = isinstance(value, int) and not isinstance(value, bool)
    text = str(value).strip() if isinstance(value, str) or number else ""
    return text or None
