"""The grammar, by hand. `None` stands for no number."""

import jax
import jax.numpy as jnp
import pytest

from grpojax import text
from grpojax.text import oracle


LITERALS = {
    b"18": 18,
    b"0": 0,
    b"-0": 0,
    b"007": 7,
    b"1,000": 1000,
    b"109,200,000": 109_200_000,
    b"192000000": 192_000_000,
    b"16777217": 2**24 + 1,
    b"-5": -5,
    b"$18": 18,
    b"-$1,234": -1234,
    b"$-1,234": -1234,
    b"18.00": 18,
    b"1,000.0": 1000,
    b"18.5": None,
    b"18.05": None,
    b"1.2.3": None,
    b"18.00.0": None,
    b"1.000,0": None,
    b"2147483647": 2**31 - 1,
    b"-2147483647": 1 - 2**31,
    b"2147483648": None,
    b"-2147483648": None,
    b"2,147,483,646": 2**31 - 2,
    b"2200000000": None,
    b"3000000000": None,
    b"4294967301": None,  # 5, if arithmetic wrapped around.
    b"9999999999": None,
    b"10000000000": None,
    b"18446744073709551621": None,  # 5 again.
    b"0" * 900 + b"2147483647": 2**31 - 1,
    b"1" + b"0" * 900: None,
    b"1,0" * 2 + b"1": 10_101,
}
WRONG = [b"", b"x", b"--5", b"$$5", b"-$-5", b"- 5", b"$ 5", b",5", b".5", b"+5"]
AFTER = {
    b"#### 18": 18,
    b"####18": 18,
    b"#### \n\t 18": 18,
    b"####" + b" " * 700 + b"18": 18,
    b"####\r\n\x0b\x0c18": 18,
    b"####\x0e18": None,
    b"#### 18.": 18,
    b"#### 18. That is 3 more.": 18,
    b"#### 18 dollars, not 19": 18,
    b"#### 18%": 18,
    b"#### 5\n#### 6": 6,
    b"#### 5\n#### six": None,
    b"#####\n7": 7,
    b"### 7": None,
    b"7 ####": None,
    b"#### x 7": None,
    b"####\x007": None,
    b"#### \xe2\x88\x925": None,
}
TAG = {
    b"<answer>18</answer>": 18,
    b"so\n<answer>\n 18 \n</answer>\n": 18,
    b"<answer>18.</answer>": 18,
    b"<answer>18..</answer>": None,
    b"<answer>18 dollars</answer>": None,
    b"<answer>= 18</answer>": None,
    b"<answer></answer>": None,
    b"<answer>5 6</answer>": None,
    b"<answer>18</answer> or 19": 18,  # A number behind the pair does not win,
    b"<answer>1</answer><answer>2</answer>": 2,
    b"<answer>1</answer> <answer>2": 1,
    b"<answer>1</answer><answer></answer>": None,
    b"<answer>1</answer> 2</answer>": 1,
    b"<answer><answer>1</answer>": 1,
    b"</answer>1<answer>": None,
    b"<answer>1": None,
    b"1</answer>": None,
    b"<Answer>1</Answer>": None,
    b"<answer>1</answer": None,
}
LAST = {
    b"so 5-3": 3,
    b"x-3": 3,
    b"(2)-3": 3,
    b"= -3": -3,
    b"=-3": -3,
    b"-3": -3,
    b"a - 3": 3,
    b"--3": -3,
    b"5-$3": 3,
    b"= -$3": -3,
    b"= $-3": -3,
    b"\xc3\xa9-3": -3,
    b"18 apples and 1,234 pears": 1234,
    b"1,000, 2,000": 2000,
    b"it is 1, 2": 2,
    b"it is 18.": 18,
    b"it is 18, 18.5": None,
    b"it is .5": None,
    b"it is $.50": None,
    b"H2O": 2,
    b"none": None,
    b"#### 18 </answer> 19": 19,
}
CASES = [
    *(
        (text.number_after, oracle.number_after, b"#### " + k, v)
        for k, v in LITERALS.items()
    ),
    *(
        (text.number_in_tag, oracle.number_in_tag, b"<answer>" + k + b"</answer>", v)
        for k, v in LITERALS.items()
    ),
    *(
        (text.last_number, oracle.last_number, b"is " + k, v)
        for k, v in LITERALS.items()
    ),
    *((text.number_after, oracle.number_after, b"#### " + k, None) for k in WRONG),
    *(
        (text.number_in_tag, oracle.number_in_tag, b"<answer>" + k + b"</answer>", None)
        for k in WRONG
    ),
    *((text.number_after, oracle.number_after, k, v) for k, v in AFTER.items()),
    *((text.number_in_tag, oracle.number_in_tag, k, v) for k, v in TAG.items()),
    *((text.last_number, oracle.last_number, k, v) for k, v in LAST.items()),
]
READ = {
    graph: jax.jit(graph)
    for graph in (text.number_after, text.number_in_tag, text.last_number)
}


@pytest.mark.parametrize("graph, by_hand, content, expected", CASES)
def test_number(graph, by_hand, content, expected):
    assert by_hand(content) == expected
    number = READ[graph](text.pack(content, size=1024))
    assert number.valid.item() == (expected is not None)
    assert number.value.item() == (expected or 0)
    assert number.value.dtype == jnp.int32


def test_text_that_fills_its_room():
    tagged = text.pack(b"<answer>18</answer>", size=19)
    assert READ[text.number_after](text.pack(b"#### 18", size=7)).value == 18
    assert READ[text.number_in_tag](tagged).value == 18
    assert READ[text.last_number](text.pack(b"8", size=1)).value == 8


def test_marker_and_tag_are_arguments():
    content = text.pack(b"#### 1 The answer is: 2 <result>3</result>", size=64)
    assert text.number_after(content, b"The answer is:").value == 2
    assert text.number_in_tag(content, b"result").value == 3
    assert not text.number_in_tag(content).valid


def test_no_loop_in_the_program():
    program = jax.make_jaxpr(jax.vmap(text.number_in_tag))(
        text.Bytes(jnp.zeros((2, 32), jnp.uint8), jnp.zeros(2, jnp.int32))
    )
    assert "while" not in str(program) and "scan[" not in str(program)


def test_messages():
    content = text.pack(b"", size=4)
    with pytest.raises(ValueError, match="at least one byte"):
        text.number_after(content, b"")
    with pytest.raises(ValueError, match="without angle brackets"):
        text.number_in_tag(content, b"<answer>")
