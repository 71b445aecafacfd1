"""The kinds of answers: in the graph they equal their oracles."""

import decimal
import functools
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from envs.answers import (
    AbstractAnswer,
    Choice,
    Decimal,
    Integer,
    NoAnswer,
    OneOf,
    Text,
)
from grpojax import text

from ..helpers import mostly_slow


SIZE = 40
slow = functools.partial(pytest.param, marks=pytest.mark.slow)
NUMBERS = ["7", "-7", "7.0", "7.25", "7.2500000001", "7.3", "-0.05", "1,234", "0"]
LETTERS = ["B", "(B)", "b", "C", "A", "B or C", "A B", "Z"]
TEXTS = ["Paris", "paris", "The  Paris.", "Rome", "É", "é", "the", "", "  a b "]
FORMS = ["%s", "#### %s", "<answer>%s</answer>", "\\boxed{%s}", "it is **%s**."]
KINDS = {
    "integer": (Integer(), [7, "-7", "#### 1,234", 0.0], NUMBERS),
    "integer_last": (Integer("last"), [7, "$7", -7], NUMBERS),
    "decimal": (Decimal(), ["7.25", 7, -0.05, 2**31 - 1], NUMBERS),
    "decimal_near": (
        Decimal(tolerance=0.05, find="last"),
        [7.25, "0", -0.1, 7.3],
        NUMBERS,
    ),
    "decimal_relative": (
        Decimal(relative_tolerance=2.0),
        ["2147483647.999999999", 3, "-7.25", 1e-9],
        [*NUMBERS, "2147483647.999999999", "-2147483647.999999999"],
    ),
    "choice": (Choice(), ["B", 2, "(a)"], LETTERS),
    "choice_two": (Choice("AB", find="last"), ["B", 0], LETTERS),
    "text": (Text(), ["Paris", "the É", "a b", 7], TEXTS),
    "text_exact": (Text(normalize=False, find="tag"), ["Paris", "a b"], TEXTS),
    "one_of": (
        OneOf(Text()),
        [["Paris", "Rome"], "paris", '["é", "b"]', ("Rome",)],
        TEXTS,
    ),
    "one_of_numbers": (
        OneOf(Decimal(tolerance=0.01)),
        [[7, 7.25, "0"], "1,234", np.array([7.3])],
        NUMBERS,
    ),
    "none": (NoAnswer(), [None, "?"], TEXTS),
}


@functools.cache
def in_graph(name):
    """What a kind says of one text against every row, and the votes."""
    kind, answers, _ = KINDS[name]
    gold = jax.tree.map(jnp.asarray, kind.encode(answers))

    def every(content):
        checked = jax.vmap(lambda row: kind.check(content, row))(gold)
        return checked, kind.vote(content), jax.vmap(kind.gold_vote)(gold)

    return jax.jit(every)


@pytest.mark.parametrize(
    "name",
    mostly_slow(
        KINDS,
        fast=["integer", "choice_two", "one_of_numbers"],
    ),
)
def test_a_kind_equals_its_oracle(name):
    kind, answers, contents = KINDS[name]

    @settings(max_examples=150, deadline=None)
    @given(
        form=st.sampled_from(FORMS),
        content=st.sampled_from(contents) | st.text(max_size=8),
        after=st.sampled_from(["", "", "<think>", " 3"]),
    )
    def law(form, content, after):
        said = ((form % content) + after).encode()[:SIZE]
        checked, vote, gold_votes = in_graph(name)(text.pack(said, size=SIZE))
        by_hand = [kind.oracle(said, answer) for answer in answers]
        assert checked.correct.tolist() == [correct for correct, _ in by_hand]
        assert checked.well_formed.tolist() == [formed for _, formed in by_hand]
        assert vote.valid or vote.value == 0
        assert vote.value.dtype == gold_votes.dtype == jnp.int32
        assert vote.valid or not checked.correct.any()

    law()


@pytest.mark.parametrize(
    "kind, answer, right, wrong",
    [
        (Integer(), 72, ["#### **72** eggs", "72", r"\boxed{72}"], ["72/2", "73", ""]),
        slow(Decimal(), 18.5, ["#### 18.5", "$18.50"], ["18.4", "37/2"]),
        (Decimal(tolerance=0.1), 18.5, ["18.4", "18.6"], ["18.61", "-18.5"]),
        slow(Decimal(tolerance=0.1), -0.05, ["0.05", "-0.15"], ["0.051"]),
        (Decimal(relative_tolerance=0.01), "200", ["198", "202.0"], ["202.1"]),
        slow(Decimal(tolerance=0.3), 0.3, ["0.6", "0.0", "0"], ["0.600000001"]),
        (Decimal(), 0.1 + 0.2, ["0.3", "0.30000000000000004"], ["0.300000001"]),
        (
            Choice(),
            "B",
            [
                "B",
                "(B)",
                "B.",
                "**B**",
                r"\boxed{B}",
                "Answer: B",
                "<answer>b</answer>",
            ],
            ["A", "<answer>A or B</answer>", "<answer>A, B</answer>", "bee", ""],
        ),
        slow(
            Choice(), "A", ["<answer>A. A city</answer>", "it is A because"], ["A city"]
        ),
        slow(Choice("ABCDE"), 4, ["(E)", "Not A but E"], ["E or A", "F"]),
        (Text(), "the Café", ["<answer>café.</answer>", "CAFÉ"], ["cafe", "cafés", ""]),
        slow(Text(), "A", ["a", "\\text{A}"], ["the", "b"]),
        slow(Text(normalize=False), "Ab", [" Ab\n"], ["ab", "Ab."]),
        slow(OneOf(Integer()), [5, "6"], ["#### 5", "6"], ["7", "5 or 6"]),
        (OneOf(Text()), '["NYC", "New York"]', ["nyc", "New  York!"], ["York"]),
    ],
)
def test_what_is_right(kind, answer, right, wrong):
    gold = jax.tree.map(lambda x: jnp.asarray(x)[0], kind.encode([answer]))
    check = jax.jit(lambda content: kind.check(content, gold).correct)
    for said in right + wrong:
        content = text.pack(said.encode(), size=SIZE)
        assert check(content) == (said in right), said
        assert kind.oracle(said.encode(), answer)[0] == (said in right), said


def test_equal_answers_vote_together_and_for_the_gold_answer():
    for kind, answer, same, other in [
        (Integer(), 7, ["#### 7", "7.0"], "8"),
        (Decimal(), "-7.25", ["#### -7.250", "-7.25"], "7.25"),
        (Decimal(), 3, ["3", "3.0"], "-3"),
        (Choice(), "C", ["(C)", "c"], "D"),
        (Text(), "Paris", ["paris.", "The Paris"], "Rome"),
        (OneOf(Text()), ["Paris", "Rome"], ["paris"], "rome"),
    ]:
        gold = jax.tree.map(lambda x: jnp.asarray(x)[0], kind.encode([answer]))
        vote = jax.jit(lambda content, kind=kind: kind.vote(content))
        pack = lambda said: text.pack(said.encode(), size=SIZE)
        assert {int(vote(pack(x)).value) for x in same} == {int(kind.gold_vote(gold))}
        assert vote(pack(other)).value != kind.gold_vote(gold)


@pytest.mark.parametrize(
    "kind, answers, message",
    [
        (Integer(), [1, "2", "abc"], "^row 3: its answer 'abc' is not an integer$"),
        (Integer(), ["#### 7", 1.5], "row 2: its answer 1.5 is not an integer"),
        (Integer(), [None], "row 1: its answer None is not an integer"),
        (Integer(), [True], "row 1: its answer True is not an integer"),
        (Integer(), ["1,2"], "'1,2' is not an integer"),
        (Integer(), ["1,,000"], "'1,,000' is not an integer"),
        (Integer(), ["3 or 4"], "'3 or 4' is not an integer"),
        (Integer(), ["3,000,000,000"], "does not fit 32 bits: at most 2,147,483,647"),
        (Integer(), [-(2**31)], "does not fit 32 bits"),
        (Decimal(), [1, "1/2"], "row 2: its answer '1/2' is not a decimal number"),
        (Decimal(), [float("nan")], "nan is not a decimal number"),
        (Decimal(), [1e-10], "1e-10 must have .* at most nine digits"),
        (Decimal(), [2**31], "a magnitude below 2\\*\\*31"),
        (Choice(), ["B", "E"], "row 2: its answer 'E' is not one of the letters ABCD"),
        (Choice(), [4], "4 is not one of the letters ABCD, nor an index from 0 to 3"),
        (Text(), ["x", 1.5], "row 2: its answer 1.5 is not a text"),
        (Text(), ["..."], "row 1: its answer '...' is empty after normalization"),
        (Text(normalize=False), [" "], "row 1: its answer ' ' is empty$"),
        (OneOf(Integer()), [[1], []], "row 2: its answer \\[\\] is an empty list"),
        (OneOf(Integer()), [1, [2, "x"]], "row 2: its answer 'x' is not an integer"),
    ],
)
def test_answers_of_another_kind_are_refused_by_row(kind, answers, message):
    with pytest.raises(ValueError, match=message):
        kind.encode(answers)


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: Integer("box"), "Received 'box'"),
        (lambda: Decimal(tolerance=-1.0), "`tolerance` of Decimal must be at least 0"),
        (lambda: Decimal(relative_tolerance=float("nan")), "`relative_tolerance`"),
        (lambda: Choice("abc"), "capital letters of ASCII. Received 'abc'"),
        (lambda: Choice("AA"), "two different capital letters"),
        (lambda: Text(find="answer"), "Received 'answer'"),
    ],
)
def test_arguments_are_checked(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_gold_answers_of_every_form():
    integers = [72, 72.0, "72", "1,234", "$5", "6*7\n#### 42", "#### -3.", np.int64(9)]
    assert Integer().encode(integers).tolist() == [72, 72, 72, 1234, 5, 42, -3, 9]
    decimals = ["18.5", 18.5, decimal.Decimal("18.5"), "#### $18.50", np.float32(18.5)]
    gold = Decimal(tolerance=0.25).encode(decimals)
    assert set(gold.integer.tolist()) == {18} and set(gold.fraction) == {500_000_000}
    assert set(gold.bound_fraction.tolist()) == {250_000_000}
    assert Choice().encode(["B", "(b)", 1, "\\boxed{B}"]).tolist() == [1, 1, 1, 1]


@settings(max_examples=300, deadline=None)
@given(
    numbers=st.tuples(*[st.integers(-(2**31) * 10**9 + 1, 2**31 * 10**9 - 1)] * 2),
    near=st.integers(-3, 3),
    tolerance=st.sampled_from([0.0, 1e-9, 0.5, 3.0, 1e9, 5e9]),
)
def test_decimals_are_compared_exactly(numbers, near, tolerance):
    one, other = (Fraction(number, 10**9) for number in numbers)
    gold = one + Fraction(tolerance) + Fraction(near, 10**9) if near else other
    kind = Decimal(tolerance=tolerance, find="all")
    billionths = round(gold * 10**9)
    if abs(billionths) >= 2**31 * 10**9:
        return
    written = [
        f"{'-' * (n < 0)}{abs(n) // 10**9}.{abs(n) % 10**9:09}"
        for n in (numbers[0], billionths)
    ]
    said = text.pack(written[0].encode(), size=24)
    row = jax.tree.map(lambda x: jnp.asarray(x)[0], kind.encode([written[1]]))
    correct = compare(said, row)
    difference = abs(numbers[0] - billionths)
    assert correct == (difference <= Fraction(repr(tolerance)) * 10**9)
    assert kind.oracle(written[0].encode(), written[1])[0] == correct


@jax.jit
def compare(said, gold):
    return Decimal(find="all").check(said, gold).correct


def test_every_kind_is_of_plain_arguments_and_has_no_arrays():
    for kind, *_ in KINDS.values():
        assert isinstance(kind, AbstractAnswer)
        assert jax.tree.leaves(kind) == []
