"""Generated viewers: reproducible, without leaks, and with odds that are known."""

import collections
import functools
import itertools
import json
import math
import re
from typing import Any

import numpy as np
import pytest
from scipy import stats
from scipy.optimize import minimize

from envs.slates._bayes import bayes
from envs.slates._viewers import CHANNELS, session, STANCES, TOPICS
from envs.slates.origin import direction_of, read_example
from envs.slates.rows import generate
from envs.slates.templates import compact, full, option


@functools.cache
def examples(difficulty="real", count=2000, seed=0) -> list[Any]:
    rows = itertools.islice(generate(seed, difficulty), count)
    return [read_example(row) for row in rows]


def last_steps(difficulty="real", count=2000) -> list[Any]:
    every = {x.ids["participant_id"]: x for x in examples(difficulty, count)}
    return [*every.values()]


def test_a_seed_decides_every_byte():
    text = lambda seed: json.dumps([*itertools.islice(generate(seed, "real"), 50)])
    assert text(3) == text(3) != text(4)
    rows = json.loads(text(3))
    assert rows == [*itertools.islice(generate(3, "real"), 50)]
    assert read_example(rows[7]) == read_example({**rows[7], "uid": rows[7]["uid"]})


def test_no_viewer_is_in_both_splits():
    people = lambda **which: {
        row["participant_id"]
        for row in itertools.islice(generate(0, "real", **which), 300)
    }
    train, test, every = people(held_out=False), people(held_out=True), people()
    assert not train & test
    assert every & test and every - test <= train


def test_sizes_are_those_of_the_origin():
    found = collections.Counter(len(x.slate) for x in examples())
    shares = {size: count / 2000 for size, count in found.items()}
    expected = {2: 0.088, 3: 0.046, 4: 0.754, 5: 0.111}
    assert shares == pytest.approx(expected, abs=0.03)
    steps = collections.Counter(len(x.watched) for x in examples())
    assert [steps[n] / 2000 for n in range(4)] == pytest.approx(
        [0.26, 0.26, 0.25, 0.23], abs=0.03
    )


def test_words_of_one_kind_have_one_length():
    for words in (TOPICS, CHANNELS, STANCES):
        assert len(set(map(len, words))) == 1


def guesses():
    """Policies that see no feature of a video."""
    pattern = lambda item: re.sub(
        r"[a-z]+", "w", re.sub(r"[\d,]+", "0", option(item).lower())
    )

    def unlike(items):
        patterns = [pattern(x) for x in items]
        rare = min(map(patterns.count, patterns))
        return next(i for i, x in enumerate(patterns, 1) if patterns.count(x) == rare)

    longest = lambda items: (
        1 + max(range(len(items)), key=lambda i: len(option(items[i])))
    )
    return {"first": lambda _: 1, "last": len, "longest": longest, "unlike": unlike}


@pytest.mark.parametrize("guess", ["first", "last", "longest", "unlike"])
def test_what_is_no_feature_tells_nothing(guess):
    odds = np.array([1 / len(x.slate) for x in examples()])
    hits = [guesses()[guess](x.slate) == x.gold_index for x in examples()]
    spread = math.sqrt(np.sum(odds * (1 - odds))) / len(odds)
    assert abs(np.mean(hits) - np.mean(odds)) < 3 * spread


@pytest.mark.parametrize("size", [2, 3, 4, 5])
def test_the_chosen_video_is_anywhere(size):
    places = [x.gold_index for x in examples() if len(x.slate) == size]
    counts = np.bincount(places, minlength=size + 1)[1:]
    assert stats.chisquare(counts).pvalue > 0.01


def test_all_lines_have_the_same_fields():
    for example in examples()[:200]:
        assert len({tuple(sorted(item)) for item in example.slate}) == 1
        assert len({len(option(item)) for item in example.slate}) == 1


@pytest.mark.parametrize(
    ("difficulty", "least", "most"), [("easy", 0.95, 1.0), ("real", 0.5, 0.6)]
)
def test_the_best_answer_is_as_certain_as_the_difficulty_says(difficulty, least, most):
    every = examples(difficulty, 1200)
    best = [bayes(x, "video", 0.02)["bayes_accuracy"] for x in every]
    assert least <= np.mean(best) <= most
    hits = [np.argmax(x.truth["probabilities"]) + 1 == x.gold_index for x in every]
    assert abs(np.mean(hits) - np.mean(best)) < 3 * 0.5 / math.sqrt(len(every))
    moved = [bayes(x, "direction", 0.02) for x in last_steps(difficulty, 1200)]
    share = np.mean([x["bayes_accuracy"] for x in moved])
    assert share >= 0.95 if difficulty == "easy" else 0.55 < share < 0.7


def test_odds_of_opinions_are_those_of_many_draws():
    draw = np.random.default_rng(0)
    for example in last_steps()[:20]:
        truth, gold = example.truth, example.gold_index - 1
        after = truth["means"][gold] + truth["noise"] * draw.standard_normal(20_000)
        after = np.round(np.clip(after, 0, 1), 2)
        found = [direction_of(example.before, x, 0.02) for x in after[:4000]]
        best = collections.Counter(found).most_common(1)[0][1] / 4000
        assert bayes(example, "direction", 0.02)["bayes_accuracy"] == pytest.approx(
            best, abs=0.03
        )
        mae = np.mean(np.abs(after - np.median(after)))
        assert bayes(example, "value", 0.02)["bayes_mae"] == pytest.approx(
            mae, abs=0.003
        )
        both = bayes(example, "both", 0.02)
        assert both["bayes_accuracy"] <= min(both["bayes_video"], both["bayes_opinion"])


def features(example, item):
    """What a choice depends on."""
    traits = example.traits
    return [
        traits["affinity"][item["topic"]] / 9,
        1 - abs(traits["stance"] - item["stance"]) / 6,
        float(traits["channel"] == item["channel"]),
        item["views"] / 9,
    ]


def words(_, item):
    """The words of a title."""
    return [float(word in item["title"]) for word in (*TOPICS, *STANCES)]


def fitted(describe, train, test):
    """The options that a conditional logit of some features chooses."""

    def table(every):
        rows = np.full(
            (len(every), 5, len(describe(every[0], every[0].slate[0]))), np.nan
        )
        for place, x in enumerate(every):
            rows[place, : len(x.slate)] = [describe(x, item) for item in x.slate]
        return rows

    rows, gold = table(train), np.array([x.gold_index - 1 for x in train])

    def loss(weights):
        scores = np.nan_to_num(rows @ weights, nan=-np.inf)
        chances = np.exp(scores - scores.max(1, keepdims=True))
        chances /= chances.sum(1, keepdims=True)
        at = np.arange(len(gold))
        filled = np.nan_to_num(rows)
        slope = np.einsum("no,nof->f", chances, filled) - filled[at, gold].sum(0)
        penalty = 1e-3 * weights
        value = -np.log(chances[at, gold]).sum() + 0.5 * weights @ penalty
        return value, slope + penalty

    weights = minimize(loss, np.zeros(rows.shape[2]), jac=True, method="L-BFGS-B").x
    return np.nanargmax(table(test) @ weights, axis=1)


def test_true_features_reach_the_best_accuracy_and_titles_do_not():
    every = examples()
    train, test = every[:1400], every[1400:]
    odds = [x.truth["probabilities"] for x in test]
    best = np.mean([max(x) for x in odds])
    reached = lambda chosen: np.mean([x[i] for x, i in zip(odds, chosen, strict=True)])
    assert reached(fitted(features, train, test)) > best - 0.01
    assert reached(fitted(words, train, test)) < best - 0.1


def test_prompts_are_short_and_show_every_feature():
    for example in examples()[:300]:
        for asks in ("video", "direction", "value", "both"):
            assert len(compact(example, asks).encode()) <= 160
    example = next(x for x in examples() if len(x.slate) == 2 and x.watched)
    text = compact(example, "both")
    pattern = (
        r"S[+-]\d A:\d{6} C:[a-h] H:.+ B:\d+ K:\d \| 1\)\d[+-]\d[a-f][a-h] 2\)\S+ QO\?"
    )
    assert re.fullmatch(pattern, text)
    assert re.fullmatch(r"B:\d+ K:\d W:[+-]\d O\?", compact(example, "value"))


def test_full_prompts_have_the_blocks_of_the_origin():
    example = next(x for x in examples() if len(x.watched) == 3)
    names = ["VIEWER", "CURRENTLY WATCHING", "RECENTLY WATCHED (NEWEST LAST)"]
    names += ["SURVEY HIGHLIGHTS", "OPTIONS", "QUESTIONS"]
    text = full(example, "both", max_history=2)
    blocks = text.split("\n\n")
    assert [block.splitlines()[0] for block in blocks[:-1]] == names
    assert len(blocks[2].splitlines()) == 3
    assert "increase, decrease, or stay the same" in blocks[5]
    after = full(example, "direction", max_history=0)
    assert "WATCHED NEXT" in after and "OPTIONS" not in after
    assert "(no earlier videos)" in after
    bare = read_example(
        {"slate_items_json": '[{"title": "A"}]', "participant_study": "study9"}
    )
    text = full(bare, "both", max_history=3)
    for missing in ("profile", "current video", "survey"):
        assert f"({missing} unavailable)" in text
    assert "Initial Viewpoint: (unavailable)" in text
    assert "1. A (unknown channel, length unknown)" in text


def test_a_session_is_one_viewers():
    rows = [*session(5, 0, "real")]
    assert len({row["participant_id"] for row in rows}) == 1
    assert [row["step_index"] for row in rows] == [*range(len(rows))]
    for before, after in itertools.pairwise(rows):
        assert before["next_video_id"] == after["current_video_id"]
