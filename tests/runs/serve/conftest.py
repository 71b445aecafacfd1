import json

import pytest

from grpojax import text

from ..conftest import SHIPPED


TEMPLATE = (
    "{% for m in messages %}{% if m.role == 'nobody' %}{{ raise_exception('nobody!') }}"
    "{% endif %}{{ m.role }}: {{ m.content }}\n{% endfor %}assistant:"
)


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory):
    """The tokenizer that is shipped, with a chat template."""
    path = tmp_path_factory.mktemp("tokenizer")
    text.load_tokenizer(SHIPPED).save(path)
    (path / "chat_template.jinja").write_text(TEMPLATE)
    return text.load_tokenizer(path)


@pytest.fixture(scope="session")
def ask():
    """Sends a request that is answered."""

    def send(client, *, path="chat/completions", **body):
        if path == "chat/completions":
            body = {"messages": [{"role": "user", "content": "What is 2+3?"}], **body}
        response = client.post(f"/v1/{path}", content=json.dumps(body))
        assert response.status_code == 200, response.text
        return response.json()

    return send


@pytest.fixture(scope="session")
def stream():
    """Sends a request and reads its events."""

    def send(client, *, path="chat/completions", **body):
        if path == "chat/completions":
            body = {"messages": [{"role": "user", "content": "What is 2+3?"}], **body}
        body["stream"] = True
        response = client.post(f"/v1/{path}", content=json.dumps(body))
        assert response.status_code == 200, response.text
        lines = [line for line in response.text.splitlines() if line]
        assert all(line.startswith("data: ") for line in lines)
        assert lines.pop() == "data: [DONE]"
        return [json.loads(line.removeprefix("data: ")) for line in lines]

    return send
