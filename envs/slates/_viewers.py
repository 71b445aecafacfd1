"""Viewers, videos and sessions that are made up from a seed."""

import functools
import json
import math
import random
from collections.abc import Iterator, Mapping
from typing import NamedTuple


TOPICS = ("policy", "events", "family", "sports", "comedy", "health")
CHANNELS = (
    *("Daybreak", "Midfield", "Overlook", "Parallel"),
    *("Riverbed", "Sunlight", "Windmill", "Lakeside"),
)
# All of one length, as are topics and channels: no line is longer than another.
STANCES = (
    *("strictly opposed", "somewhat opposed", "slightly opposed", "entirely neutral"),
    *("slightly support", "somewhat support", "strictly support"),
)
ISSUES = {"study1": "gun_control", "study2": "minimum_wage", "study3": "minimum_wage"}
SCALES = {
    "study1": ("gun_index", "gun_index_2"),
    "study2": ("mw_index_w1", "mw_index_w2"),
    "study3": ("mw_index_w1", "mw_index_w2"),
}
"""Of each study, the columns of the opinion before and after."""

_VIDEOS = 64  # Of each issue.
_LEVELS = 3  # Of a stance to each side.
_MOST = 9  # Of what is shown as a digit.
_SIZES = {2: 0.088, 3: 0.046, 4: 0.754, 5: 0.111}
_LENGTHS = (0.04, 0.115, 1.0)  # Chances that a session ends after 2, 3 and 4 steps.
_AGES = ("18 to 29", "30 to 44", "45 to 64", "65 or more")
_OFTEN = ("daily", "weekly", "monthly")


class Difficulty(NamedTuple):
    """How certain choices and opinions are.

        utility_j = affinity a[topic_j] + stance (1 - |s - v_j| / 2)
                  + channel [channel_j is the favorite] + views w_j
        chosen    ~ softmax(utility / temperature)
        after     = clip(b + assimilation k (v_chosen - (2 b - 1)) / 2 + N(0, noise²))

    of a viewer with the affinities a, the stance s, the susceptibility k and the
    opinion b, all of which a prompt shows as they are.
    """

    affinity: float
    stance: float
    channel: float
    views: float
    temperature: float
    assimilation: float
    noise: float


DIFFICULTIES = {
    "easy": Difficulty(0.5, 0.25, 0.25, 2.0, 0.01, 1.5, 0.003),
    "real": Difficulty(2.0, 1.0, 1.0, 1.0, 0.57, 1.0, 0.12),
}


class Video(NamedTuple):
    """A video of the catalogue; `stance` is from -3 to 3 and `views` from 0 to 9."""

    id: str
    title: str
    topic: int
    channel: int
    stance: int
    views: int
    seconds: int

    def to_json(self, draw: random.Random) -> dict[str, object]:
        """The item of a slate: the same fields for every video."""
        views = 1_000_000 + 900_000 * self.views + draw.randrange(900_000)
        return {
            "id": self.id,
            "title": self.title,
            "channel_title": CHANNELS[self.channel],
            "length_seconds": self.seconds,
            "view_count": views,
            "like_count": draw.randrange(10_000, 100_000),
            "comment_count": draw.randrange(1_000, 10_000),
            "topic": self.topic,
            "channel": self.channel,
            "stance": self.stance,
            "views": self.views,
        }


# Every session asks for it.
@functools.lru_cache(maxsize=64)
def catalogue(issue: str, seed: int) -> tuple[Video, ...]:
    """The videos of an issue; the same for every split."""
    draw = random.Random(f"{seed}:{issue}")
    videos = []
    for number in range(_VIDEOS):
        topic = draw.randrange(len(TOPICS))
        stance = draw.randint(-_LEVELS, _LEVELS)
        phrase = STANCES[stance + _LEVELS]
        videos.append(
            Video(
                id=f"{issue}-{number:02d}",
                title=f"{TOPICS[topic]}: {phrase}, part {number:02d}",
                topic=topic,
                channel=draw.randrange(len(CHANNELS)),
                stance=stance,
                views=draw.randint(0, _MOST),
                seconds=draw.randint(100, 999),
            )
        )
    return tuple(videos)


class Viewer(NamedTuple):
    """A made-up viewer; numbers are as prompts show them.

    **Fields:**

    - `stance`: -3 to 3.
    - `affinity`: for each topic, 0 to 9.
    - `channel`: the favorite.
    - `susceptibility`: 0 to 9.
    - `before`: the opinion before, 0 to 100.
    - `profile`: a sentence.
    """

    stance: int
    affinity: tuple[int, ...]
    channel: int
    susceptibility: int
    before: int
    profile: str


def viewer(draw: random.Random) -> Viewer:
    """A viewer."""
    stance = draw.uniform(-1, 1)
    weights = [draw.gammavariate(1.0, 1.0) for _ in TOPICS]
    party = "Democratic" if stance + draw.gauss(0, 0.5) > 0 else "Republican"
    before = 1 / (1 + math.exp(-2 * stance)) + draw.gauss(0, 0.1)
    return Viewer(
        stance=round(_LEVELS * stance),
        affinity=tuple(round(_MOST * x / sum(weights)) for x in weights),
        channel=draw.randrange(len(CHANNELS)),
        susceptibility=round(_MOST * draw.betavariate(2, 5)),
        before=round(100 * min(max(before, 0.0), 1.0)),
        profile=(
            f"A viewer of {draw.choice(_AGES)} years who leans {party} and watches "
            f"YouTube {draw.choice(_OFTEN)}."
        ),
    )


def utility(who: Viewer, video: Video, by: Difficulty) -> float:
    """What a video is worth to a viewer; see `Difficulty`."""
    return (
        by.affinity * who.affinity[video.topic] / _MOST
        + by.stance * (1 - abs(who.stance - video.stance) / (2 * _LEVELS))
        + by.channel * (who.channel == video.channel)
        + by.views * video.views / _MOST
    )


def mean_after(who: Viewer, video: Video, by: Difficulty) -> float:
    """The opinion after a video but for noise and clipping."""
    before = who.before / 100
    pull = by.assimilation * who.susceptibility / _MOST
    return before + pull * (video.stance / _LEVELS - (2 * before - 1)) / 2


def session(number: int, seed: int, difficulty: str) -> Iterator[dict[str, object]]:
    """The rows of a viewer's session, in the origin's columns.

    **Arguments:**

    - `number`: of the viewer.
    - `seed`: of the viewers and videos.
    - `difficulty`: a name of `DIFFICULTIES`.
    """
    by, draw = DIFFICULTIES[difficulty], random.Random(f"{seed}:viewer:{number}")
    who, study = viewer(draw), draw.choice([*ISSUES])
    videos = catalogue(ISSUES[study], seed)
    steps = next(n for n, end in enumerate(_LENGTHS, 2) if draw.random() < end)
    watched, rows = [], []
    current = draw.choice(videos)
    for step in range(steps):
        seen = {current.id, *(x.id for x in watched)}
        (size,) = draw.choices([*_SIZES], [*_SIZES.values()])
        slate = draw.sample([x for x in videos if x.id not in seen], size)
        chances = softmax([utility(who, x, by) / by.temperature for x in slate])
        (chosen,) = draw.choices(slate, chances)
        order = draw.sample(range(size), size)
        means = [mean_after(who, x, by) for x in slate]
        truth = {
            "probabilities": [chances[i] for i in order],
            "means": [means[i] for i in order],
            "noise": by.noise,
        }
        rows.append(
            {
                "uid": f"{seed}-{number:06d}-{step}",
                "issue": ISSUES[study],
                "participant_study": study,
                "participant_id": f"{seed}-{number:06d}",
                "session_id": f"{seed}-{number:06d}",
                "step_index": step,
                "current_video_id": current.id,
                "current_video_title": current.title,
                "current_video_channel": CHANNELS[current.channel],
                "next_video_id": chosen.id,
                "next_video_title": chosen.title,
                "slate_items_json": json.dumps([slate[i].to_json(draw) for i in order]),
                "n_options": size,
                "watched_detailed_json": json.dumps(
                    [_watched(x, draw) for x in watched]
                ),
                "viewer_profile": who.profile,
                "survey_highlights": _highlights(who),
                "traits_json": json.dumps(who._asdict()),
                "truth_json": json.dumps(truth),
            }
        )
        watched, current = [*watched, current][-3:], chosen
    after = mean_after(who, current, by) + draw.gauss(0, by.noise)
    columns = SCALES[study]
    opinions = dict(
        zip(columns, (who.before, round(100 * min(max(after, 0), 1))), strict=True)
    )
    for row in rows:
        yield {**row, **{name: x / 100 for name, x in opinions.items()}}


def softmax(values: list[float]) -> list[float]:
    """The shares `exp(x) / sum`."""
    most = max(values)
    shares = [math.exp(x - most) for x in values]
    return [x / sum(shares) for x in shares]


def _watched(video: Video, draw: random.Random) -> Mapping[str, object]:
    return {
        "id": video.id,
        "title": video.title,
        "channel_title": CHANNELS[video.channel],
        "watch_seconds": draw.randint(10, video.seconds),
        "total_length": video.seconds,
        "topic": video.topic,
        "stance": video.stance,
    }


def _highlights(who: Viewer) -> str:
    pairs = zip(TOPICS, who.affinity, strict=True)
    likes = ", ".join(f"{topic} {x}" for topic, x in pairs)
    return (
        f"Stance {STANCES[who.stance + _LEVELS]}. Interests from 0 to {_MOST}: "
        f"{likes}. Favorite channel {CHANNELS[who.channel]}. Persuaded by videos, from "
        f"0 to {_MOST}: {who.susceptibility}."
    )
