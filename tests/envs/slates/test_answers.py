"""The kinds of answers equal their oracles, and the origin's reward."""

import functools
import math

import jax
import jax.numpy as jnp
import pytest
from hypothesis import given, settings, strategies as st

from envs.slates.answers import Direction, Option, OptionAndDirection, Percent
from grpojax import text

from ...helpers import mostly_slow


SIZE = 72
BOTH = {"option": 3, "of": 4, "direction": "no_change"}
KINDS = {
    "option": (Option(), [3, {"option": 2, "of": 2}, {"option": 3, "of": 2}, "1"]),
    "option_strict": (Option(strict=True), [3, 12]),
    "direction": (Direction(), ["increase", "lower", "stay the same"]),
    "direction_strict": (Direction(strict=True), ["increase", "no change"]),
    "percent": (Percent(), [0.0, 0.12, 1]),
    "percent_strict": (Percent(tolerance=0, strict=True), [0.03]),
    "both": (
        OptionAndDirection(),
        [BOTH, {"option": 3}, {"direction": "up"}, {"option": None}],
    ),
}
numbers = st.sampled_from(["3", " 3 ", "03", "Option 2", "option 12", "3.", "-4", "x"])
labels = st.sampled_from(
    ["increase", "Lower", "stay the same", "No change.", "no", "3"]
)


@functools.cache
def in_graph(name):
    kind, answers = KINDS[name]
    gold = jax.tree.map(jnp.asarray, kind.encode(answers))

    def every(content):
        checked = jax.vmap(lambda row: kind.check(content, row))(gold)
        rewards = jax.vmap(lambda row: kind.rewards(content, row))(gold)
        return checked, rewards, kind.vote(content), jax.vmap(kind.gold_vote)(gold)

    return jax.jit(every)


@pytest.mark.parametrize("name", mostly_slow(KINDS, fast=["option", "both"]))
def test_a_kind_equals_its_oracle(name):
    kind, answers = KINDS[name]

    @settings(max_examples=100, deadline=None)
    @given(
        parts=st.lists(
            st.builds("<answer>{}</answer>".format, numbers)
            | st.builds("<opinion>{}</opinion>".format, labels)
            | st.text(max_size=8),
            max_size=3,
        )
    )
    def law(parts):
        said = "".join(parts).encode()[:SIZE]
        checked, given, vote, votes = in_graph(name)(text.pack(said, size=SIZE))
        by_hand = [kind.oracle(said, answer) for answer in answers]
        assert checked.correct.tolist() == [correct for correct, _ in by_hand]
        assert checked.well_formed.tolist() == [formed for _, formed in by_hand]
        assert ((given["correct"] > 0.5) == checked.correct).all()
        assert vote.value.dtype == votes.dtype == jnp.int32
        assert vote.valid or vote.value == 0

    law()


@functools.cache
def rewards(kind):
    return jax.jit(kind.rewards)


def rewards_of(kind, said, answer):
    gold = jax.tree.map(lambda x: jnp.asarray(x)[0], kind.encode([answer]))
    content = text.pack(said.encode(), size=SIZE)
    return {x: y.item() for x, y in rewards(kind)(content, gold).items()}


@pytest.mark.parametrize(
    ("said", "option", "of", "direction", "correct"),
    [
        ("<answer>2</answer><opinion>increase</opinion>", 2, 4, "increase", 1.0),
        ("<answer>2</answer><opinion>increase</opinion>", 2, 1, "increase", 0.5),
        ("3", 3, 4, None, 0.0),
        ("<opinion>Unchanged</opinion>", None, None, "no_change", 1.0),
        ("<answer>Option 3</answer>", 3, 4, None, 1.0),
        ("<answer>03</answer>", 3, 4, None, 1.0),
        ("<answer>3.</answer>", 3, 4, None, 0.0),
        ("<answer>1</answer><answer>3</answer>", 3, 4, None, 0.0),
        ("<answer>\n3\n</answer><opinion>no change</opinion>", 3, 4, "no_change", 1.0),
        ("", 3, 4, "increase", 0.0),
        ("<answer>3</answer>", None, None, None, 0.0),
        # The origin pays 0.5: it does not know the words of its own prompt.
        ("<answer>3</answer><opinion>stay the same</opinion>", 3, 4, "no_change", 1.0),
    ],
)
def test_the_joint_reward_is_that_of_the_origin(said, option, of, direction, correct):
    answer = {"option": option, "of": of, "direction": direction}
    found = rewards_of(OptionAndDirection(), said, answer)
    assert found["correct"] == correct
    assert math.isnan(found["video"]) == (option is None)
    assert math.isnan(found["opinion"]) == (direction is None)


def test_strict_answers_are_those_that_the_prompt_asks_for():
    said = "<answer>Option 3</answer><opinion>higher</opinion>"
    answer = {**BOTH, "direction": "increase"}
    assert rewards_of(OptionAndDirection(), said, answer)["correct"] == 1.0
    assert rewards_of(OptionAndDirection(strict=True), said, answer)["correct"] == 0.0
    assert rewards_of(OptionAndDirection(), said, answer)["format"] == 0.0


@pytest.mark.parametrize(
    ("said", "closeness", "correct"),
    [("55", 0.95, 1), ("0", 0.4, 0), ("300", 0.6, 0), ("-3", 0, 0), ("", 0, 0)],
)
def test_a_place_is_worth_its_closeness(said, closeness, correct):
    found = rewards_of(Percent(), f"<answer>{said}</answer>", 0.6)
    assert found["closeness"] == pytest.approx(closeness)
    assert found["correct"] == correct


@pytest.mark.parametrize(
    ("kind", "answer", "words"),
    [
        (Option(), 0, "not the number of an option"),
        (Option(), {"of": 3}, "not the number of an option"),
        (Option(), True, "not the number of an option"),
        (Direction(), "sideways", "not one of decrease, no_change, increase"),
        (Percent(), 1.5, "not a number from 0 to 1"),
        (Percent(), float("nan"), "not a number from 0 to 1"),
        (OptionAndDirection(), 3, "not a mapping of `option`, `of` and `direction`"),
    ],
)
def test_bad_answers_are_refused(kind, answer, words):
    with pytest.raises(ValueError, match=f"row 1: its answer .* is {words}"):
        kind.encode([answer])
