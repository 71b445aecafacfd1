"""The verdicts of common graders beside ours, on the same texts."""

import re

import pytest

from grpojax.text import oracle


# What a text is worth for an answer: to lm-evaluation-harness's filters of GSM8K
# "strict-match" and "flexible-extract", to math-verify 0.9, and here; S, F, M and H.
TABLE = [
    ("72", "#### 72", "SFMH"),
    ("72", "#### **72**", "FMH"),
    ("72", r"\boxed{72}", "FMH"),
    ("72", r"#### \boxed{72}", "FMH"),
    ("72", "#### x = 72", "FMH"),
    ("72", "#### 36*2 = 72", "FMH"),
    ("72", "#### <<36*2=72>>72", "FMH"),
    ("72", "#### €72", "FMH"),
    ("72", r"#### \$72", "FH"),
    ("72", "#### +72", "FH"),
    ("72", "#### `72`", "FH"),
    ("72", r"#### \(72\)", "FMH"),
    ("72", "#### USD 72", "FMH"),
    ("-5", "#### -5", "SFMH"),
    ("-5", "#### \u22125", "H"),
    ("-5", "#### - 5", "H"),
    ("-72", "#### -$72", "FH"),
    ("-72", "#### $-72", "FMH"),
    ("1234", "#### 1,234", "SFMH"),
    ("1234", "#### 1{,}234", "H"),
    ("1234", r"\boxed{1{,}234}", "MH"),
    ("72", "#### 72.", "SFMH"),
    ("72", "#### $72.00", "MH"),
    ("72", "#### 72 apples", "SFMH"),
    ("72", "#### 72%", "SFMH"),
    ("72", "#### 72 km/h", "SFMH"),
    ("72", "#### 72 m^2", "SMH"),
    ("72", "#### The answer is 72.", "FMH"),
    ("72", "The answer is 72.", "FMH"),
    ("72", "<answer>72</answer>", "FH"),
    ("72", "<answer>72 apples</answer>", "FH"),
    ("72", r"<answer>\boxed{72}</answer>", "FMH"),
    ("72", "<answer>$72$</answer>", "FMH"),
    ("18.5", "#### 18.5", "SFMH"),
    ("0.5", "#### .5", "MH"),
    # Wrong, or more than one number.
    ("1", "#### 1/2", "S"),
    ("2", "#### 1/2", "F"),
    ("18", "#### 18/4", "S"),
    ("4", "18/4", "F"),
    ("5", "#### 5 or 6", "S"),
    ("6", "#### 5 or 6", "FM"),
    ("5", "#### 5-6", "S"),
    ("5", "#### 5 1/2", "S"),
    ("34", "#### 3,4", "SF"),
    ("5", "#### 5e3", "SM"),
    ("5", r"#### 5\pi", "SFM"),
    ("5", "#### x > 5", "FM"),
    ("5", "#### ±5", "F"),
    ("72", "#### 72 out of 100", "S"),
    ("72", "<think>I try #### 72", "SFM"),
]


def normalized(number):
    for ignored in (",", r"\$", r"(?s).*#### ", r"\.$"):
        number = re.sub(ignored, "", number)
    return number.strip().lower()


def strict(text, gold):
    """`exact_match,strict-match`: the first `#### ` that a number follows."""
    found = re.search(r"#### (\-?[0-9\.\,]+)", text)
    return found is not None and normalized(found[1]) == normalized(gold)


def flexible(text, gold):
    """`exact_match,flexible-extract`: the last number of any form."""
    found = re.findall(r"(-?[$0-9.,]{2,})|(-?[0-9]+)", text)
    return bool(found) and normalized("".join(found[-1])) == normalized(gold)


def here(text, gold):
    return oracle.parse_decimal(text.encode()) == oracle.parse_decimal(gold.encode())


@pytest.mark.parametrize("gold, text, verdicts", TABLE)
def test_verdicts(gold, text, verdicts):
    assert strict(text, gold) == ("S" in verdicts)
    assert flexible(text, gold) == ("F" in verdicts)
    assert here(text, gold) == ("H" in verdicts)


@pytest.mark.parametrize("gold, text, verdicts", TABLE)
def test_verdicts_of_math_verify(gold, text, verdicts):
    math_verify = pytest.importorskip("math_verify")
    answer = math_verify.parse(text, parsing_timeout=None)
    right = math_verify.verify(
        math_verify.parse(f"${gold}$", parsing_timeout=None),
        answer,
        timeout_seconds=None,
    )
    assert right == ("M" in verdicts)


def test_what_all_of_them_accept_is_correct_here():
    accepted = [row for row in TABLE if "SFM" in row[2] and "think" not in row[1]]
    assert all("H" in verdicts for _, text, verdicts in accepted if "\\pi" not in text)
