"""Tools in requests: offered by the template, called in OpenAI's form."""

import asyncio
import json

import pytest


pytest.importorskip("starlette", reason="needs the extra `serve`")
httpx = pytest.importorskip("httpx", reason="httpx is not installed")

from grpojax import text  # noqa: E402
from grpojax.runs.serve import app as apps  # noqa: E402

from ..conftest import SHIPPED  # noqa: E402
from .test_http import Client, Scripted  # noqa: E402


TEMPLATE = (
    "{% for t in tools or [] %}{{ t | tojson }}\n{% endfor %}"
    "{% for m in messages %}{{ m.role }}: {{ m.content }}"
    "{% for c in m.tool_calls or [] %}"
    "{{ c.function.name }}({{ c.function.arguments.x }}){% endfor %}\n{% endfor %}"
    "assistant:"
)
TOOL = {"type": "function", "function": {"name": "add", "parameters": {}}}
CALL = '<tool_call>{"name": "add", "arguments": {"x": 2}}</tool_call>'


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    path = tmp_path_factory.mktemp("tokenizer")
    text.load_tokenizer(SHIPPED).save(path)
    (path / "chat_template.jinja").write_text(TEMPLATE)
    return text.load_tokenizer(path)


@pytest.fixture
def service(tokenizer):
    made = Scripted(tokenizer)
    made.max_prompt = made.max_tokens = 400
    made.answer = [*tokenizer.encode(f"I add. {CALL}"), *tokenizer.end_tokens]
    return made


@pytest.fixture
def client(service):
    return Client(apps.make_app(service, "mine"))


def test_a_call_and_its_result(client, service, ask, tokenizer):
    asked = [{"role": "user", "content": "2+2?"}]
    (choice,) = ask(client, messages=asked, tools=[TOOL])["choices"]
    assert choice["finish_reason"] == "tool_calls"
    message = choice["message"]
    assert message["content"] == "I add." and message["role"] == "assistant"
    (call,) = message["tool_calls"]
    assert call["type"] == "function" and len(call["id"]) == 9
    assert call["function"] == {"name": "add", "arguments": '{"x": 2}'}
    assert service.rows[0].prompt == tokenizer.chat(asked, tools=[TOOL])
    result = {"role": "tool", "tool_call_id": call["id"], "content": "4"}
    ask(client, messages=[*asked, message, result], tools=[TOOL])
    rendered = tokenizer.decode(service.rows[1].prompt)
    assert "assistant: I add.add(2)tool: 4assistant:" in rendered


def test_calls_are_streamed_at_the_end(client, stream):
    events = [x["choices"][0] for x in stream(client, tools=[TOOL])]
    texts = [x["delta"].get("content") for x in events]
    assert "".join(x or "" for x in texts) == "I add."
    assert events[-1]["finish_reason"] == "tool_calls"
    assert events[-1]["delta"]["tool_calls"][0]["index"] == 0


def test_without_tools_a_call_is_text(client, service, ask, tokenizer):
    for more in ({}, {"tools": [TOOL], "tool_choice": "none"}):
        (choice,) = ask(client, **more)["choices"]
        assert "tool_calls" not in choice["message"]
        assert choice["message"]["content"].strip() == f"I add. {CALL}"
    service.answer = tokenizer.encode("<tool_call>add 2</tool_call>")
    (choice,) = ask(client, tools=[TOOL])["choices"]
    assert choice["message"]["content"].strip() == "<tool_call>add 2</tool_call>"
    assert choice["finish_reason"] == "stop"


def test_the_client_of_openai_takes_calls(service):
    openai = pytest.importorskip("openai", reason="openai is not installed")
    transport = httpx.ASGITransport(apps.make_app(service, "mine"))

    async def talk():
        http = httpx.AsyncClient(transport=transport)
        url = "http://server/v1"
        async with openai.AsyncOpenAI(
            base_url=url, api_key="none", http_client=http
        ) as client:
            asked = [{"role": "user", "content": "2+2?"}]
            ask = lambda: client.chat.completions.create(
                model="mine", messages=asked, tools=[TOOL]
            )
            message = (await ask()).choices[0].message
            (call,) = message.tool_calls
            x = json.loads(call.function.arguments)["x"]
            result = {"role": "tool", "tool_call_id": call.id, "content": str(x + x)}
            asked += [message, result]
            await ask()
            return call.function.name

    assert asyncio.run(talk()) == "add"
    assert "tool: 4" in service.tokenizer.decode(service.rows[1].prompt)
