import re
from fractions import Fraction

import pytest
from hypothesis import given, settings, strategies as st

from envs.gsm8k import final_answer, word_problems


def evaluate(line):
    """What the left-hand side of `48/2=24 clips` comes to."""
    left, sign, right = re.match(r"(\d+)([-+*/])(\d+)=", line).groups()
    a, b = Fraction(left), Fraction(right)
    return {"+": a + b, "-": a - b, "*": a * b, "/": a / b}[sign]


def content(row):
    """A problem without the names of the people and the things in it."""
    words = re.findall(r"\d+|\w+", row["question"])
    named = {word for word in words if word[0].isupper()}
    unit = {word.split()[1] for word in row["answer"].split("\n")[:-1]}
    return tuple("_" if word in named | unit else word for word in words)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**64), split=st.sampled_from(["train", "test"]))
def test_every_line_of_every_worked_answer_is_true_and_leads_to_the_answer(seed, split):
    for row in word_problems(32, split=split, seed=seed):
        *lines, last = row["answer"].split("\n")
        assert 1 <= len(lines) <= 3
        known = {int(number) for number in re.findall(r"\d+", row["question"])}
        for line in lines:
            stated = re.fullmatch(r"(\d+)[-+*/](\d+)=(\d+) [a-z]+", line).groups()
            left, right, result = map(int, stated)
            assert {left, right} <= known
            assert evaluate(line) == result and 1 <= result <= 99
            known.add(result)
        assert last == f"#### {result}"
        assert final_answer(row["answer"]) == result


@settings(max_examples=20, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    split=st.sampled_from(["train", "test"]),
    count=st.integers(1, 20),
    more=st.integers(1, 20),
)
def test_the_same_seed_gives_the_same_rows_and_more_rows_begin_with_the_fewer(
    seed, split, count, more
):
    rows = word_problems(count, split=split, seed=seed)
    assert len(rows) == count
    assert word_problems(count + more, split=split, seed=seed)[:count] == rows


def test_rows_never_change_between_versions():
    (row,) = word_problems(1, seed=0)
    assert row == {
        "question": "Lily shares 15 shells equally among 3 friends. "
        "How many shells does each friend get?",
        "answer": "15/3=5 shells\n#### 5",
    }


def test_no_problem_is_in_both_splits_under_whatever_names():
    train = {content(row) for row in word_problems(1500, split="train", seed=1)}
    test = {content(row) for row in word_problems(1500, split="test", seed=2)}
    assert len(train) > 1000 and len(test) > 300
    assert not train & test


def test_seeds_and_splits_differ():
    rows = [word_problems(20, seed=seed) for seed in (0, 1)]
    assert rows[0] != rows[1]


def test_there_are_many_kinds_of_problems_of_one_to_three_steps():
    rows = word_problems(2000)
    kinds = {re.sub(r"\d+", "", "".join(content(row))) for row in rows}
    steps = [row["answer"].count("\n") for row in rows]
    assert len(kinds) >= 10
    assert {steps.count(count) > 100 for count in (1, 2, 3)} == {True}


@pytest.mark.parametrize("count", [0, -3])
def test_a_count_below_one_is_refused(count):
    with pytest.raises(ValueError, match=f"at least 1. Received {count}"):
        word_problems(count)


def test_an_unknown_split_is_refused():
    with pytest.raises(ValueError, match="'train' or 'test'. Received 'dev'"):
        word_problems(1, split="dev")
