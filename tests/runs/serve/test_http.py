"""The HTTP side, over a service that decodes what it is told."""

import asyncio
import json
import random

import pytest


pytest.importorskip("starlette", reason="needs the extra `serve`")
httpx = pytest.importorskip("httpx", reason="httpx is not installed")

from grpojax.runs.serve import app as apps  # noqa: E402
from grpojax.runs.serve.generation import TextReader  # noqa: E402
from grpojax.runs.serve.rows import Chunk  # noqa: E402
from grpojax.runs.serve.service import Service  # noqa: E402


# A completion begins no text: the first word keeps its space.
ANSWER = " the sum is 5, naïve; the end"


class Scripted(Service):
    """A service whose completions are all one text, a few tokens at a time."""

    max_prompt, max_tokens, ends = 40, 64, True

    def __init__(self, tokenizer):
        self.tokenizer, self.rows, self.cancelled = tokenizer, [], []
        self.answer = tokenizer.encode(ANSWER.lstrip())

    def submit(self, row):
        self.rows.append(row)
        tokens = self.answer[: row.max_tokens]
        last = 2 * ((len(tokens) - 1) // 2)
        for start in range(0, len(tokens), 2):
            new = tokens[start : start + 2]
            finish = None
            if start == last and self.ends:
                finish = "length" if len(tokens) < len(self.answer) else "stop"
            log_probs = [-0.5 - start - i for i in range(len(new))]
            row.deliver(Chunk(new, log_probs, [3] * len(new), finish))

    def cancel(self, row):
        self.cancelled.append(row)


@pytest.fixture
def service(tokenizer):
    return Scripted(tokenizer)


class Client:
    """Requests to an application in this process."""

    def __init__(self, app):
        self.app = app

    def request(self, method: str, path: str, **content):
        async def send():
            transport = httpx.ASGITransport(self.app, raise_app_exceptions=False)
            async with httpx.AsyncClient(transport=transport) as client:
                return await client.request(method, f"http://server{path}", **content)

        return asyncio.run(send())

    def get(self, path: str):
        return self.request("GET", path)

    def post(self, path: str, **content):
        return self.request("POST", path, **content)


@pytest.fixture
def client(service):
    return Client(apps.make_app(service, "mine"))


def test_a_chat(client, service, ask, tokenizer):
    body = ask(client, seed=7, temperature=0.5, top_p=0.9, top_k=-1, model="mine")
    assert body["object"] == "chat.completion" and body["model"] == "mine"
    (choice,) = body["choices"]
    assert choice["message"] == dict(role="assistant", content=ANSWER, refusal=None)
    assert choice["finish_reason"] == "stop" and choice["logprobs"] is None
    (row,) = service.rows
    messages = [{"role": "user", "content": "What is 2+3?"}]
    assert row.prompt == tokenizer.chat(messages)
    assert (row.seed, row.member, row.max_tokens) == (7, 0, 64)
    assert vars(row.sampling) == dict(temperature=0.5, top_k=0, top_p=0.9, min_p=0.0)
    sizes = len(row.prompt), len(service.answer)
    expected = dict(zip(("prompt_tokens", "completion_tokens"), sizes, strict=True))
    assert body["usage"] == expected | {"total_tokens": sum(sizes)}


def test_completions_of_texts_and_tokens(client, service, ask, tokenizer):
    path = "completions"
    body = ask(client, path=path, prompt=["one", "two"], n=2, max_tokens=3)
    assert body["object"] == "text_completion"
    assert [x["index"] for x in body["choices"]] == [0, 1, 2, 3]
    expected = tokenizer.token_bytes.join(service.answer[:3]).decode()
    assert {x["text"] for x in body["choices"]} == {expected}
    assert {x["finish_reason"] for x in body["choices"]} == {"length"}
    assert [row.member for row in service.rows] == [0, 1, 0, 1]
    assert len({row.seed for row in service.rows}) == 1
    tokens = tokenizer.encode_prompt("one")
    for prompt in (tokens, [tokens]):
        ask(client, path=path, prompt=prompt, return_token_ids=True)
        assert service.rows[-1].prompt == service.rows[0].prompt


def test_log_probs_and_tokens(client, service, ask):
    more = dict(max_tokens=3, return_token_ids=True)
    chat = ask(client, logprobs=True, top_logprobs=1, **more)["choices"][0]
    entries = chat["logprobs"]["content"]
    assert [x["logprob"] for x in entries] == [-0.5, -1.5, -2.5]
    text = b"".join(bytes(x["bytes"]) for x in entries).decode()
    assert text == chat["message"]["content"]
    assert chat["token_ids"] == service.answer[:3]
    assert chat["prompt_token_ids"] == service.rows[0].prompt
    for logprobs in (1, True):
        body = ask(client, path="completions", prompt="x", logprobs=logprobs, **more)
        found = body["choices"][0]["logprobs"]
        assert found["token_logprobs"] == [-0.5, -1.5, -2.5]
        assert "".join(found["tokens"]) == body["choices"][0]["text"]
        assert found["text_offset"][1] == len(found["tokens"][0])


def test_a_stream_is_the_response_in_pieces(client, ask, stream):
    more = dict(seed=1, n=2, logprobs=True)
    body = ask(client, **more)
    events = stream(client, stream_options={"include_usage": True}, **more)
    assert events[-1]["usage"] == body["usage"] and events[-1]["choices"] == []
    assert events[0]["choices"][0]["delta"]["role"] == "assistant"
    for index, choice in enumerate(body["choices"]):
        own = [x["choices"][0] for x in events[:-1]]
        own = [x for x in own if x["index"] == index]
        text = "".join(x["delta"]["content"] for x in own)
        assert text == choice["message"]["content"]
        assert [x["finish_reason"] for x in own][-1] == choice["finish_reason"]
        entries = [y for x in own if x["logprobs"] for y in x["logprobs"]["content"]]
        assert entries == choice["logprobs"]["content"]
    texts = stream(client, path="completions", prompt="x")
    assert "".join(x["choices"][0]["text"] for x in texts) == ANSWER


@pytest.mark.parametrize(
    ("stop", "expected"),
    [
        ("sum", " the "),
        (["xyz", " 5"], " the sum is"),
        ("the end", " the sum is 5, naïve; "),
        ("ï", " the sum is 5, na"),
        ("zzz", ANSWER),
        ("the", " "),
    ],
)
def test_stop_strings(client, service, ask, stream, stop, expected):
    body = ask(client, stop=stop)
    assert body["choices"][0]["message"]["content"] == expected
    assert body["choices"][0]["finish_reason"] == "stop"
    events = stream(client, stop=stop)
    assert "".join(x["choices"][0]["delta"]["content"] for x in events) == expected
    assert body["usage"]["completion_tokens"] <= len(service.answer)


def test_a_stop_string_frees_the_row(client, service, ask):
    ask(client, stop="sum")
    assert service.cancelled == service.rows
    ask(client)
    assert len(service.cancelled) == 1  # A row that has ended by itself is not.


def test_text_is_that_of_all_tokens_wherever_characters_begin():
    pieces = [bytes([x]) for x in range(256)]
    text = "añb→c😀"
    reader = TextReader(pieces, ["😀!"])
    found = [reader.read(byte) for byte in text.encode()]
    assert "".join(found) + reader.flush() == text
    assert all(len(x) <= 1 or x.isascii() for x in found)
    broken = TextReader(pieces)
    assert broken.read(0xC3) + broken.read(ord("x")) + broken.flush() == "\ufffdx"


def test_models(client):
    card = client.get("/v1/models").json()["data"][0]
    assert card["id"] == "mine" and client.get("/v1/models/mine").json() == card
    assert client.get("/v1/models/other").status_code == 404


CHAT = {"messages": [{"role": "user", "content": "hi"}]}


@pytest.mark.parametrize(
    ("changes", "status", "words"),
    [
        ({"model": "other"}, 404, "must be the one here, 'mine'. Received 'other'"),
        ({"messages": []}, 400, "`messages` must be a list of at least one"),
        ({"messages": [{"role": "nobody", "content": "x"}]}, 400, "nobody!"),
        ({"messages": [{"role": "user"}]}, 400, "with a text as `content`"),
        ({"messages": [{"role": "user", "content": "\ud800"}]}, 400, "valid Unicode"),
        ({"messages": [{"role": "user", "content": "x" * 99}]}, 400,
         "A prompt must have between 1 and 40 tokens. Received "),
        ({"max_tokens": 65}, 400, "an integer between 1 and 64. Received 65"),
        ({"max_completion_tokens": 0}, 400, "`max_completion_tokens` must be"),
        ({"temperature": 2.5}, 400, "a number between 0 and 2. Received 2.5"),
        ({"temperature": 0.001}, 400, "0, or between 0.01 and 2"),
        ({"temperature": True}, 400, "`temperature` must be"),
        ({"top_p": 0}, 400, "`top_p` must be above 0"),
        ({"top_k": 1.5}, 400, "`top_k` must be an integer"),
        ({"n": 10**400}, 400, "`n` must be"),
        ({"seed": 2**63}, 400, "`seed` must be"),
        ({"stop": ["a", ""]}, 400, "none empty"),
        ({"stop": ["a"] * 17}, 400, "at most 16 strings"),
        ({"stream": "yes"}, 400, "true or false"),
        ({"tools": [{"type": "function"}]}, 400, "`tools` must be a list of {"),
        ({"tool_choice": "required"}, 400, '"auto" or "none". Received \'required\''),
        ({"messages": [{"role": "assistant", "tool_calls": [{"id": "a"}]}]}, 400,
         "made of calls of a `function` with a name"),
        ({"presence_penalty": 0.5}, 400, "`presence_penalty` is not supported"),
        ({"temprature": 0.5}, 400, "did you mean `temperature`?"),
        ({"prompt": "x"}, 400, "Received 'prompt'"),
    ],
    ids=lambda x: json.dumps(x)[:40] if isinstance(x, dict) else None,
)  # fmt: skip
def test_what_is_refused(client, service, changes, status, words):
    body = json.dumps(CHAT | changes)
    response = client.post("/v1/chat/completions", content=body)
    error = response.json()["error"]
    assert response.status_code == status and words in error["message"]
    assert error["type"] == "invalid_request_error" and not service.rows
    assert error["param"] in (*changes, "messages")


def test_keys_that_ask_for_nothing(client, ask):
    nothing = dict(presence_penalty=0, logit_bias={}, tools=None, user="me", store=True)
    parts = [{"type": "text", "text": "What is "}, {"type": "text", "text": "2?"}]
    ask(client, messages=[{"role": "user", "content": parts}], **nothing)


@pytest.mark.parametrize(
    ("path", "prompt", "words"),
    [
        ("completions", [], "between 1 and 40 tokens. Received 0"),
        ("completions", [-1], "made of tokens from 0"),
        ("completions", [[]], "between 1 and 40 tokens. Received 0"),
        ("completions", ["a", 1], "a text, a list of tokens"),
        ("completions", None, "a text, a list of tokens"),
    ],
)
def test_prompts_that_are_refused(client, path, prompt, words):
    response = client.post(f"/v1/{path}", json={"prompt": prompt})
    assert response.status_code == 400 and words in response.json()["error"]["message"]


def test_bodies_that_are_none(client, monkeypatch):
    post = lambda body: client.post("/v1/chat/completions", content=body)
    for body in (
        b"",
        b"{",
        b"\xff",
        b"[]",
        b"3",
        b"[" * 10**5,
        b'{"n": ' + b"9" * 5000,
    ):
        assert post(body).status_code == 400
    assert client.get("/v1/chat/completions").status_code == 405
    assert client.get("/nothing").json()["error"]["type"] == "invalid_request_error"
    monkeypatch.setattr(apps, "MOST_BYTES", 10)
    assert post(json.dumps(CHAT)).status_code == 413


def test_a_service_that_fails(client, service, monkeypatch):
    fail = lambda row: row.deliver(Chunk([], [], [], error="no memory"))
    monkeypatch.setattr(service, "submit", fail)
    response = client.post("/v1/chat/completions", json=CHAT)
    assert response.status_code == 503
    assert response.json()["error"]["message"] == "no memory"
    streamed = client.post("/v1/chat/completions", json=CHAT | {"stream": True})
    assert "no memory" in streamed.text and "[DONE]" not in streamed.text
    monkeypatch.setattr(service, "submit", lambda _: 1 / 0)
    response = client.post("/v1/chat/completions", json=CHAT)
    assert response.status_code == 500 and "ZeroDivision" not in response.text


@pytest.mark.parametrize("streams", [False, True])
def test_a_client_that_goes_away_frees_its_rows(service, streams):
    service.ends = False
    body = json.dumps(CHAT | {"stream": streams, "n": 3}).encode()
    messages = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive():
        if messages:
            return messages.pop()
        while len(service.rows) < 3:
            await asyncio.sleep(0.01)
        return {"type": "http.disconnect"}

    async def send(_):
        pass

    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": "POST",
        "path": "/v1/chat/completions",
        "raw_path": b"/v1/chat/completions",
        "query_string": b"",
        "headers": [],
    }
    run = apps.make_app(service, "mine")(scope, receive, send)
    asyncio.run(asyncio.wait_for(run, 60))
    assert service.cancelled == service.rows and len(service.rows) == 3


KEYS = (
    *("messages", "prompt", "model", "max_tokens", "temperature", "top_k", "top_p"),
    *("min_p", "n", "seed", "stop", "logprobs", "top_logprobs", "stream", "tools"),
    *("stream_options", "chat_template_kwargs", "response_format", "user", "what"),
    *("tool_choice", "tool_calls"),
)


def value_of(random: random.Random, depth: int = 0):
    """A JSON value: mostly of the wrong type."""
    simple = [None, True, False, 0, -1, 1.5, float("nan"), 2**70, "", "x", "\udc80"]
    kind = random.randrange(4 if depth < 4 else 1)
    if kind == 1:
        return [value_of(random, depth + 1) for _ in range(random.randrange(3))]
    if kind == 2:
        keys = random.choices(("role", "content", "type", "text", "a"), k=2)
        return {key: value_of(random, depth + 1) for key in keys}
    if kind == 3:
        message = {"role": random.choice(["user", 1, "\ud800"]), "content": "hi"}
        more = {"tool_calls": value_of(random, depth + 1), "function": {"name": "f"}}
        return message | (more if random.random() < 0.3 else {})
    return random.choice(simple)


def malformed(random: random.Random) -> bytes:
    body = dict(CHAT) if random.random() < 0.5 else {}
    for key in random.sample(KEYS, random.randrange(1, 5)):
        body[key] = value_of(random)
    data = json.dumps(body).encode()
    if random.random() < 0.3:
        cut = random.randrange(len(data))
        noise = bytes(random.randrange(256) for _ in range(random.randrange(3)))
        data = data[:cut] + noise + data[cut + random.randrange(3) :]
    return data


def check_random_bodies(client, count: int, seed: int):
    source = random.Random(seed)
    answered = 0
    for _ in range(count):
        path = source.choice(["chat/completions", "completions"])
        body = malformed(source)
        response = client.post(f"/v1/{path}", content=body)
        assert response.status_code in (200, 400, 404), (response.status_code, body)
        assert "Traceback" not in response.text
        if response.status_code == 200:
            answered += 1
        else:
            error = response.json()["error"]
            assert error["type"] == "invalid_request_error" and error["message"]
    assert 0 < answered < count
    assert client.post("/v1/chat/completions", json=CHAT).status_code == 200


def test_random_bodies(client):
    check_random_bodies(client, 500, seed=0)


@pytest.mark.slow
def test_ten_thousand_random_bodies(client):
    check_random_bodies(client, 10_000, seed=1)


def test_the_client_of_openai(service):
    openai = pytest.importorskip("openai", reason="openai is not installed")
    transport = httpx.ASGITransport(apps.make_app(service, "mine"))

    async def talk():
        http = httpx.AsyncClient(transport=transport)
        url = "http://server/v1"
        async with openai.AsyncOpenAI(
            base_url=url, api_key="none", http_client=http
        ) as client:
            names = [x.id async for x in client.models.list()]
            chat = await client.chat.completions.create(
                model="mine", logprobs=True, **CHAT
            )
            text = await client.completions.create(model="mine", prompt="x", stop="5")
            events = await client.chat.completions.create(
                model="mine", stream=True, **CHAT
            )
            parts = [x.choices[0].delta.content async for x in events]
            with pytest.raises(openai.BadRequestError, match="`n` must be"):
                await client.chat.completions.create(model="mine", n=0, **CHAT)
            return names, chat.choices[0], text.choices[0].text, "".join(parts)

    names, chat, text, streamed = asyncio.run(talk())
    assert names == ["mine"] and chat.message.content == streamed == ANSWER
    assert chat.logprobs.content[0].logprob == -0.5 and text == " the sum is "
