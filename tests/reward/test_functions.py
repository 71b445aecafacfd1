"""Functions that are built in: patterns, answers, JSON, mathematics, code."""

import importlib.util
import os
import socket
import sys
import threading

import numpy as np
import pytest

from grpojax import reward
from grpojax.env import Rows
from grpojax.reward import CodeTests, ExactMatch, HostReward, JSONSchema, Regex

from .rows import trajectory_of


def said(*texts):
    """A `decode`, and a trajectory of one prompt whose completions say these."""
    made = trajectory_of([[[i + 1] for i in range(len(texts))]])
    return lambda ids: "".join(texts[i - 1] for i in ids if i), made


def test_a_pattern_is_found_or_not():
    thinks = Regex(r"(?s)^<think>.*</think>")
    texts = ["<think>a\nb</think> c", "<think>a", [{"role": "x", "content": "no"}]]
    assert thinks(completions=texts) == [1, 0, 0]
    decode, made = said("<think></think>", "")
    total = HostReward(thinks, decode, name="thinks")(made).total
    assert total.tolist() == [[1, 0]]
    with pytest.raises(ValueError, match="`Regex.pattern` must be.*Received '\\('"):
        Regex("(")


@pytest.mark.parametrize(
    ("text", "answer", "plain", "normalized"),
    [
        ("Paris", "Paris", 1, 1),
        (" paris. ", "Paris", 0, 1),
        ("New\n york", "new York!", 0, 1),
        ("ＰＡＲＩＳ", "paris", 0, 1),
        ("Paris, France", "Paris", 0, 0),
        ("42", 42, 1, 1),
        ("b", ["a", "b"], 1, 1),
        ("c", ["a", "b"], 0, 0),
        ("", "Paris", 0, 0),
        ("Paris", None, None, None),
        ("Paris", [], None, None),
        ("Paris", [None], None, None),
    ],
)
def test_an_answer_is_matched(text, answer, plain, normalized):
    for normalize, wanted in ((False, plain), (True, normalized)):
        match = ExactMatch("city", normalize=normalize)
        assert match(completions=[text], city=[answer]) == [wanted]


def test_an_answer_may_be_found_by_a_pattern():
    match = ExactMatch(pattern="<answer>(.*?)</answer>")
    texts = ["<answer>a</answer> <answer>b</answer>", "b", "<answer>a</answer>"]
    assert match(completions=texts, answer=["b"] * 3) == [1, 0, 0]
    assert ExactMatch(pattern="[0-9]+")(["1, 2"], answer=["2"]) == [1]
    with pytest.raises(ValueError, match="`ExactMatch.pattern`"):
        ExactMatch(pattern="(")
    decode, made = said("a")
    with pytest.raises(ValueError, match="needs city"):
        HostReward(ExactMatch("city"), decode, name="city")(made)


def test_json_schema_says_what_is_missing(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(ImportError, match=r"pip install 'grpojax\[json\]'"):
        JSONSchema({})


def test_json_satisfies_a_schema_or_not():
    pytest.importorskip("jsonschema")
    shaped = JSONSchema(
        {
            "type": "object",
            "required": ["age"],
            "properties": {"age": {"type": "integer", "minimum": 0}},
        }
    )
    texts = {
        '{"age": 3}': 1,
        'Here:\n```json\n{"age": 3}\n```\nDone.': 1,
        '```\n{"age": "3"}\n```': 0,
        '{"age": -3}': 0,
        "{}": 0,
        '{"age": 3': 0,
        "": 0,
        "NaN": 0,
        "[" * 100_000: 0,
    }
    assert shaped(completions=list(texts)) == list(texts.values())
    with pytest.raises(ValueError, match="must be a JSON schema.*invalid at"):
        JSONSchema({"type": "objekt"})


def test_math_verify_reads_the_solutions_of_a_column(caplog):
    pytest.importorskip("math_verify")
    texts = [r"So \boxed{A}", r"It is $\frac{2}{4}$", "5"]
    solutions = ["A", "0.5", None]
    rows = Rows({"gold": [*solutions, "$$"]})
    made = trajectory_of([[[i + 1] for i in range(3)]] * 4, rows=rows)
    decode = lambda ids: "".join(texts[i - 1] for i in ids if i)
    rewards = reward.math_verify(decode, "gold")(made)
    wanted = [[1, 0, 0], [0, 1, 0], [0, 0, 0], [-1, -1, -1]]
    np.testing.assert_array_equal(rewards.total, wanted)
    np.testing.assert_array_equal(rewards.valid[:, 0], [True, True, False, True])
    assert "cannot read the solution" in caplog.text


# Code


ADD = "Like this:\n```python\ndef add(a, b):\n    return a + b\n```\nand so on."
TESTS = ["assert add(1, 2) == 3", "assert add(1, 1) == 3", "import math\nadd(1, 2)"]


def run(code, *tests, **options):
    return CodeTests("t", **options)([code], t=[list(tests)])[0]


def test_code_gets_the_share_of_tests_that_it_passes():
    assert run(ADD, *TESTS) == pytest.approx(2 / 3)
    assert run("def add(a, b): return 3", TESTS[0], TESTS[1]) == 1
    assert CodeTests("t")([ADD, ADD], t=[TESTS[0], None]) == [1, None]
    assert CodeTests("t")([ADD], t=[[]]) == [None]
    assert run("I would add them.", *TESTS) == 0


def test_code_reads_and_writes():
    double = "while True:\n    try: print(2 * int(input()))\n    except EOFError: break"
    cases = [{"input": "1\n2\n", "output": "2\n4"}, {"input": "3", "output": "7"}]
    assert run(double, *cases) == 0.5
    leaves = "import sys\nprint(sys.stdin.read())\nsys.exit(0)"
    assert run(leaves, {"input": "é \n", "output": "é"}) == 1
    assert run("exit(1)", {"input": "", "output": ""}) == 0


@pytest.mark.parametrize(
    "code",
    [
        "exit()",
        "import os; os._exit(0)",
        "raise BaseException",
        "import os; os.kill(os.getpid(), 9)",
        "import sys; sys.stdout.close(); 1 / 0",
        "def f(): f()\nf()",
        "\x00",
        "'\ud800'.encode()",
    ],
)
def test_code_that_ends_early_passes_nothing(code):
    assert run(code, "assert True") == 0


def test_code_is_limited_in_time_memory_and_files():
    assert run("while True: pass", "pass", seconds=0.5) == 0
    assert run("import time; time.sleep(60)", "pass", seconds=0.5) == 0
    limits = {"memory": 256}
    assert run("x = bytearray(10**9)", "pass", **limits) == 0
    assert run("x = bytearray(10**7)", "pass", **limits) == 1
    assert run("open('big', 'wb').write(bytes(10**8))", "pass", **limits) == 0
    assert run("while True: print('x' * 10**6)", "pass", **limits) == 0
    background = "import os, time\nif os.fork() == 0: time.sleep(600)"
    assert run(background, "pass") == 1  # And does not wait for it.


def test_code_has_no_network_no_environment_and_an_empty_folder(monkeypatch):
    monkeypatch.setenv("SECRET_OF_MINE", "1")
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        asks = f"import socket\nsocket.create_connection(('127.0.0.1', {port}), 5)"
        assert run(asks, "pass") == 0
    assert run("import os", "assert 'SECRET_OF_MINE' not in os.environ") == 1
    assert run("import os", "assert sorted(os.listdir()) == ['0.in', '0.out']") == 1
    assert run("open('mine', 'w').write('x')", "assert open('mine').read()") == 1
    assert not os.path.exists("mine")


def test_tests_of_another_kind_are_an_error():
    for tests in ([3], 3, [{"input": "x"}]):
        with pytest.raises(TypeError, match="Received"):
            CodeTests("t")(["x = 1"], t=[tests])
    with pytest.raises(ValueError, match="`CodeTests.memory` must be at least 32"):
        CodeTests(memory=1)


def test_rows_are_tested_at_the_same_time():
    made = trajectory_of(
        [[[1], [2]]] * 2, rows=Rows({"tests": ["assert f() == 1", "assert f() == 2"]})
    )
    code = lambda ids: f"def f(): return {ids[0]}"
    before = threading.active_count()
    rewards = HostReward(CodeTests(), code, name="code")(made)
    np.testing.assert_array_equal(rewards.total, [[1, 0], [0, 1]])
    assert threading.active_count() <= before + 4
    assert "grpojax.reward.functions._sandbox" not in sys.modules
