"""The grammar of numbers, by hand. `None` stands for no number."""

import functools
from fractions import Fraction

import jax
import jax.numpy as jnp
import pytest

from grpojax import text
from grpojax.text import oracle


LITERALS = {
    "18": 18,
    "0": 0,
    "-0": 0,
    "007": 7,
    "1,000": 1000,
    "109,200,000": 109_200_000,
    "192000000": 192_000_000,
    "16777217": 2**24 + 1,
    "-5": -5,
    "$18": 18,
    "-$1,234": -1234,
    "$-1,234": -1234,
    "18.00": 18,
    "1,000.0": 1000,
    "18.5": None,
    "18.05": None,
    "1.2.3": None,
    "18.00.0": None,
    "1.000,0": None,
    "2147483647": 2**31 - 1,
    "-2147483647": 1 - 2**31,
    "2147483648": None,
    "-2147483648": None,
    "2,147,483,646": 2**31 - 2,
    "2200000000": None,
    "3000000000": None,
    "4294967301": None,  # 5, if arithmetic wrapped around.
    "9999999999": None,
    "10000000000": None,
    "18446744073709551621": None,  # 5 again.
    # Groups of digits.
    "12,34,567": 1_234_567,
    "1{,}234": 1234,
    r"1\,234": 1234,
    "1'234": 1234,
    "1\u2019234": 1234,
    "1_234": 1234,
    "1\u00a0234\u202f567": 1_234_567,
    "3,4": None,
    "1,2345": None,
    "1234,567": None,
    "1,234567": None,
    "0,123": None,
    # Signs, currencies and emphasis.
    "+5": 5,
    "- 5": -5,
    "\u22125": -5,
    "\u2013 5": -5,
    "**-5**": -5,
    "-**5**": -5,
    "€72": 72,
    "-£72": -72,
    "₹ 72": 72,
    r"\$72": 72,
    r"-\$72": -72,
    r"$\$72$": 72,
    "**72**": 72,
    "*72*": 72,
    "`72`": 72,
    "_72_": 72,
    r"\(72\)": 72,
    r"\text{72}": 72,
    "(-72)": -72,
    # Words and units.
    "x = 72": 72,
    "x = -72": -72,
    "36*2 = 72": 72,
    "<<36*2=72>>72": 72,
    "USD 72": 72,
    "USD72": 72,
    "about 72": 72,
    "The answer is 72.": 72,
    "72 apples": 72,
    "72%": 72,
    r"72\%": 72,
    "72 km/h": 72,
    "72 m^2": 72,
    "72 m^{2}": 72,
    "72 m2": 72,
    "72°": 72,
    r"72^\circ": 72,
    "72-year-old": 72,
    "x_1 = 72": 72,
    # What is another number, or no number.
    "1/2": None,
    "18/4": None,
    r"\frac{1}{2}": None,
    "5 or 6": None,
    "5, 6": None,
    "5; 6": None,
    "5 to 6": None,
    "(5, 6)": None,
    "5-6": None,
    "5 - 6": None,
    "5 + 6": None,
    "5 * 6": None,
    "5^2": None,
    "5 1/2": None,
    "5½": None,
    "5 ⅓": None,
    "5²": None,
    "5π": None,
    r"5 \pi": None,
    "5e3": None,
    "5x6": None,
    "10:30": None,
    "72/100": None,
    "72 out of 100": None,
    "x = 5, y = 6": None,
    "x = 5 or x = 6": None,
    "x > 5": None,
    "x < 5": None,
    "x <= 5": None,
    "≥ 5": None,
    "± 5": None,
    r"\pm 5": None,
    ".5": None,
    "$.50": None,
    "seven": None,
    "": None,
}
AROUND = {
    "####": ["#### %s", "####%s", "#### \n\t%s", "#### \\boxed{%s} apples"],
    "tag": [
        "<answer>%s</answer> 3",
        "<answer>\n %s \n</answer>",
        "<answer>%s.</answer>",
    ],
    "boxed": [r"so \boxed{%s} of 3", r"$\fbox{%s}$"],
    "all": ["%s", "\n%s\n"],
    "auto": [r"so \boxed{%s} #### 3", "<answer>%s</answer> #### 3", "#### %s"],
}
AFTER = {
    "####\r\n\x0b\x0c18": 18,
    r"so \boxed{18}.": 18,
    r"\boxed{18} #### 19": 19,
    "#### 18.": 18,
    "#### 18. That is 3 more.": 18,
    "#### 18! That is 3 more.": 18,
    "#### 18. 3": None,
    "#### 18? Or 3": None,
    "#### 18 dollars, not 19": None,
    "#### 5\n#### 6": 6,
    "#### 5\n#### six": None,
    "#####\n7": 7,
    "### 7": None,
    "7 ####": None,
    "#### H2O": 2,
    "<think>so #### 18": None,
    "<think>so #### 18</think>": None,
    "<think>so #### 17</think> #### 18": 18,
    "so #### 17</think> #### 18": 18,
    "#### 18 <think> hm": None,
}
TAG = {
    "<answer>18..</answer>": 18,
    r"so \boxed{18}.": 18,
    r"\boxed{18} <answer>19</answer>": 19,
    "<answer></answer>": None,
    "<answer>5 6</answer>": None,
    "<answer>18</answer> or 19": 18,  # A number behind the pair does not win,
    "<answer>1</answer><answer>2</answer>": 2,
    "<answer>1</answer> <answer>2": 1,
    "<answer>1</answer><answer></answer>": None,
    "<answer>1</answer> 2</answer>": 1,
    "<answer><answer>1</answer>": 1,
    "<answer>x = 36\ny = 72</answer>": 72,
    "<answer>36\n72</answer>": None,
    "</answer>1<answer>": None,
    "<answer>1": None,
    "1</answer>": None,
    "<Answer>1</Answer>": None,
    "<answer>1</answer": None,
    "<think><answer>1</answer>": None,
    "<think><answer>1</answer></think><answer>2</answer>": 2,
}
BOXED = {
    r"\boxed{1} \boxed{2}": 2,
    r"\boxed{1} \boxed{2": None,
    r"\boxed{{72}}": 72,
    r"\boxed{\text{72 \} apples}}": 72,
    "boxed{1}": None,
}
LAST = {
    "so 5-3": None,
    "x-3": 3,
    "(2)-3": None,
    "= -3": -3,
    "=-3": -3,
    "it is -3": -3,
    "-3": -3,
    "a - 3": 3,
    "the list:\n- 3": 3,
    "the list:\n-3": -3,
    "--3": -3,
    "5-$3": None,
    "= -$3": -3,
    "= $-3": -3,
    "é-3": -3,
    "18 apples and 1,234 pears": 1234,
    "1,000, 2,000": 2000,
    "it is 1, 2": 2,
    "it is 18.": 18,
    "it is 18, 18.5": None,
    "it is .5": None,
    "H2O": 2,
    "72 m^2": 72,
    "none": None,
    "#### 18 </answer> 19": 19,
    "18/4": None,
    r"\frac{18}{4}": None,
    "5 or 6": None,
    "5 * 6": None,
    r"5 \times 6": None,
    "5 × 6": None,
    "5^2": None,
    "5 + 6": None,
    "10:30": None,
    "answer 1: 30": 30,
    "5e3": None,
    "3 boxes of 5, so 3 * 5 = 15": 15,
    "<think>18": None,
    "18</think> 19": 19,
}
CASES = [
    *(
        (find, around % literal, value)
        for find, forms in AROUND.items()
        for around in forms
        for literal, value in LITERALS.items()
        if literal or find != "auto"  # Then `#### 3` counts.
    ),
    *(("last", "it is " + k, v) for k, v in list(LITERALS.items())[:32]),
    *(("####", k, v) for k, v in AFTER.items()),
    *(("tag", k, v) for k, v in TAG.items()),
    *(("boxed", k, v) for k, v in BOXED.items()),
    *(("last", k, v) for k, v in LAST.items()),
    ("auto", "it is 18.", 18),
    ("auto", "#### 18 #### ", None),
    ("auto", r"#### Step 1: \boxed{18}", 18),
    ("auto", r"<answer>18</answer> \boxed{19} #### 20", 18),
    ("auto", r"<answer>18 \boxed{19} #### 20", 19),
    ("<result>", "#### 1 <result>3</result>", 3),
    ("The answer is:", "#### 1 The answer is: 2 dollars", 2),
]


def in_graph(cases, parse, size=64):
    """What a parser reads in each text, in one program for each `find`."""
    found = {}
    for find in {find for find, *_ in cases}:
        contents = [content.encode() for f, content, _ in cases if f == find]
        rows = [text.pack(content, size=size) for content in contents]
        stacked = jax.tree.map(lambda *x: jnp.stack(x), *rows)
        read = jax.jit(jax.vmap(functools.partial(parse, find=find)))
        leaves, treedef = jax.tree.flatten(jax.device_get(read(stacked)))
        for content, *values in zip(contents, *leaves, strict=True):
            found[find, content] = jax.tree.unflatten(treedef, values)
    return found


def test_numbers():
    found = in_graph(CASES, text.parse_integer)
    wrong = []
    for find, content, value in CASES:
        number = found[find, content.encode()]
        assert number.value.dtype == jnp.int32 and (number.valid or number.value == 0)
        read = number.value.item() if number.valid else None
        by_hand = oracle.parse_integer(content.encode(), find)
        if not read == by_hand == value:
            wrong.append((find, content, value, read, by_hand))
    assert not wrong


PLAIN = {
    "####": {
        "#### 18": 18,
        "####18.": 18,
        "#### -$1,234 in all": -1234,
        "#### 5 or 6": 5,
        "#### **18**": None,
        "#### x = 18": None,
        "#### 18 = 18": None,
        "#### +18": None,
        r"#### \boxed{18}": None,
        "18": None,
    },
    "tag": {
        r"\boxed{18}": None,
        "<answer>18</answer>": 18,
        "<answer>\n$18. </answer>": 18,
        "<answer>18 apples</answer>": None,
        "<answer>18..</answer>": None,
        "<answer>1</answer><answer>2</answer>": None,
        "<think><answer></think><answer>2</answer>": None,
        r"<answer>\boxed{18}</answer>": None,
    },
    "boxed": {r"\boxed{18}": 18, r"\boxed{ -18 }": -18, r"\boxed{x = 18}": None},
    "last": {"it is **18** apples": 18, "18/4": None},
    "all": {"18": 18, "18 apples": None},
    "auto": {"#### 18 apples": 18, "<answer>x = 18</answer>": None, "so 18": 18},
}


@pytest.mark.slow
def test_plain_numbers():
    cases = [(find, k, v) for find, texts in PLAIN.items() for k, v in texts.items()]
    found = in_graph(cases, functools.partial(text.parse_integer, plain=True))
    for find, content, value in cases:
        number = found[find, content.encode()]
        assert (number.value.item() if number.valid else None) == value, content
        assert oracle.parse_integer(content.encode(), find, plain=True) == value


DECIMALS = {
    "18.5": Fraction("18.5"),
    "-$1,234.50": Fraction("-1234.5"),
    ".5": Fraction(1, 2),
    "-.5": -Fraction(1, 2),
    "x = 0.125 m": Fraction(1, 8),
    "18": Fraction(18),
    "-0.0": Fraction(0),
    "0.1234567894": Fraction("0.123456789"),
    "0.1234567895": Fraction("0.12345679"),
    "0.9999999999": Fraction(1),
    "2147483647.999999999": 2**31 - Fraction(1, 10**9),
    "2147483647.9999999999": None,
    "2147483648": None,
    "1.2.3": None,
    "3,5": None,
    "1/2": None,
    "1.5e3": None,
    "1.5 or 2.5": None,
}


def test_decimals():
    cases = [("all", content, value) for content, value in DECIMALS.items()]
    found = in_graph(cases, text.parse_decimal)
    for find, content, value in cases:
        number = found[find, content.encode()]
        read = int(number.integer) + Fraction(int(number.fraction), 10**9)
        assert number.valid.item() == (value is not None), content
        assert (-read if number.negative else read) == (value or 0), content
        assert oracle.parse_decimal(content.encode(), find) == value


def test_long_texts_and_numbers():
    cases = [
        ("last", "0" * 900 + "2147483647", 2**31 - 1),
        ("last", "1" + "0" * 900, None),
        ("####", "####" + " " * 700 + "18", 18),
    ]
    found = in_graph(cases, text.parse_integer, size=1024)
    for find, content, value in cases:
        number = found[find, content.encode()]
        assert (number.value.item() if number.valid else None) == value
        assert oracle.parse_integer(content.encode(), find) == value


def test_text_that_fills_its_room():
    number = text.parse_integer(text.pack(b"#### 18", size=7), "####")
    assert number.valid and number.value == 18


def test_no_loop_in_the_program():
    texts = text.Bytes(jnp.zeros((2, 32), jnp.uint8), jnp.zeros(2, jnp.int32))
    for parse in (text.parse_integer, text.parse_choice, text.parse_text):
        program = str(jax.make_jaxpr(jax.vmap(parse))(texts))
        assert "while" not in program and "scan[" not in program


@pytest.mark.parametrize("find", ["box", "", "answer", " ####", "#\0"])
def test_what_is_neither_a_place_nor_a_marker_is_named(find):
    with pytest.raises(ValueError, match="a marker such as '####'. Received"):
        text.parse_integer(text.pack(b"", size=4), find)
