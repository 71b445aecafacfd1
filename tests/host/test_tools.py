"""Tools: their calls in the formats of models, and what they answer."""

import json
import threading

import jax.random as jr
import numpy as np
import pytest

from grpojax import measure, reward, rollout, RolloutConfig
from grpojax.host import HostEnvironment, tool_calls, ToolCall, Tools
from grpojax.host._tools import ToolCalls

from .doubles import bigram, numbers, TOKENIZER


CALL = {"name": "calculate", "arguments": {"expression": "2 + 3"}}
EXPECTED = [ToolCall("calculate", {"expression": "2 + 3"})]
LLAMA = {"name": "calculate", "parameters": {"expression": "2 + 3"}}
FORMATS = {
    "hermes": f"I compute.\n<tool_call>\n{json.dumps(CALL)}\n</tool_call>",
    "cut": f"<tool_call>{json.dumps(CALL)}",
    "mistral": f"[TOOL_CALLS] [{json.dumps(CALL)}]",
    "mistral 2": f"[TOOL_CALLS]calculate[ARGS]{json.dumps(CALL['arguments'])}",
    "llama": json.dumps(LLAMA),
    "python tag": f"<|python_tag|>{json.dumps(LLAMA)}",
    "text in text": json.dumps(CALL | {"arguments": json.dumps(CALL["arguments"])}),
}


@pytest.mark.parametrize("name", FORMATS)
def test_a_call_in_the_format_of_each_family(name):
    assert tool_calls(FORMATS[name]) == EXPECTED


def test_several_calls_and_none():
    assert tool_calls(FORMATS["hermes"] * 2) == EXPECTED * 2
    assert tool_calls(f"[TOOL_CALLS][{json.dumps(CALL)}, {json.dumps(CALL)}]") == (
        EXPECTED * 2
    )
    assert tool_calls(f"{json.dumps(LLAMA)}; {json.dumps(LLAMA)}") == EXPECTED * 2
    for text in ("", "#### 5", '{"answer": 5}', "{ 1, 2 }", "[1, 2]", "{"):
        assert tool_calls(text) == []
    for text in (
        "<tool_call>calculate(2)</tool_call>",
        '<tool_call>{"name": 5}</tool_call>',
        '<tool_call>{"name": "a", "arguments": [1]}</tool_call>',
        "<tool_call>" + "[" * 100_000,
        "[TOOL_CALLS]",
        "[TOOL_CALLS][ARGS]{",
        "<|python_tag|>print(5)",
    ):
        (call,) = tool_calls(text)
        assert call.error is not None and len(call.error) < 200


def calculate(expression: str) -> float:
    """The value of an expression.

    Args:
        expression: of sums and products, such as 2 + 3 * 4.
    """
    factors = [term.split("*") for term in expression.split("+")]
    return sum(float(np.prod([float(x) for x in term])) for term in factors)


async def later(text: str) -> str:
    """The text.

    Args:
        text: any.
    """
    return text


hang = threading.Event()


def hangs() -> None:
    """Nothing."""
    hang.wait(20)


def call(name, **arguments):
    said = json.dumps({"name": name, "arguments": arguments})
    return f"<tool_call>{said}</tool_call>"


def test_results_and_failures():
    calls = ToolCalls(Tools([calculate, later, hangs], max_calls=7), 0.3)
    replies = calls.take_turn(
        call("calculate", expression="2 + 3 * 4") + call("later", text="a\ud800b")
    )
    assert [x["content"] for x in replies] == ["14.0", "a?b"]
    assert {x["role"] for x in replies} == {"tool"} and calls.failures == 0
    ids = [x["tool_call_id"] for x in replies]
    assert len({*ids}) == 2 and all(len(x) == 9 and x.isalnum() for x in ids)
    for text, message in {
        call("calculate", expression="two"): "ValueError",
        call("calculate", text="2"): "TypeError",
        call("multiply", a=2): "there is no tool 'multiply', but calculate, later",
        call("hangs"): "no answer within 0.3 seconds",
        "<tool_call>2": "a call is a JSON object",
        call("calculate", expression="1"): "no more than 7 calls",
    }.items():
        (reply,) = calls.take_turn(text)
        assert message in json.loads(reply["content"])["error"]
    hang.set()
    assert calls.calls == 8 and calls.failures == 6


def test_what_is_no_tool_is_refused():
    def undescribed(x: int) -> int:
        return x

    with pytest.raises(ValueError, match="described in its docstring"):
        Tools([undescribed])
    with pytest.raises(ValueError, match="different names"):
        Tools([calculate, calculate])
    with pytest.raises(ValueError, match="at least one"):
        Tools([])
    with pytest.raises(ValueError, match="max_calls=0"):
        Tools([calculate], max_calls=0)


def test_a_rollout_calls_tools_and_counts(monkeypatch):
    """Its model writes letters: what they call is decided here."""
    turns = iter([call("calculate", expression="2+3"), call("calculate"), ""] * 99)
    monkeypatch.setattr(
        "grpojax.host._tools.tool_calls", lambda text: tool_calls(text + next(turns))
    )
    env = HostEnvironment(
        numbers(max_completion_length=120),
        Tools([calculate]),
        TOKENIZER,
        chat=False,
        concurrency=1,
    )
    config = RolloutConfig(prompts=2, group=2, slots=1)
    found = rollout.generate(bigram(), env, config, key=jr.key(0))
    assert set(found.rewards) == {"early"} and not found.dropped.any()
    texts = [
        TOKENIZER.decode(x) for x in np.asarray(found.tokens).reshape(4, -1).tolist()
    ]
    assert any("5.0" in text for text in texts)
    assert any('{"error": "TypeError' in text for text in texts)
    calls, failures = (int(found.counts[x].sum()) for x in ("calls", "failures"))
    assert calls > failures > 0
    metrics = measure(found, reward.checked(reward.WeightedSum(), found))
    assert metrics["tools/call_frequency"] == calls / 4
    np.testing.assert_allclose(metrics["tools/failure_frequency"], failures / calls)
