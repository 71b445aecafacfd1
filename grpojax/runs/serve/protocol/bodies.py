"""Responses of OpenAI's protocol, as JSON values."""

import dataclasses
import json
import secrets
from collections.abc import Iterator, Sequence
from typing import Any

from ....host import ToolCall
from ..generation import Completion, Delta
from ..rows import STOP
from .request import Request


Json = dict[str, Any]


def dump(value: Json) -> bytes:
    """JSON in ASCII: what a client has sent may be no text."""
    return json.dumps(value).encode()


def event(value: Json) -> bytes:
    """A server-sent event."""
    return b"data: " + dump(value) + b"\n\n"


def error_body(message: str, kind: str, param: str | None = None) -> Json:
    """The body of a response that refuses."""
    fields = dict(message=message, type=kind, param=param, code=None)
    return {"error": fields}


@dataclasses.dataclass(frozen=True)
class Form:
    """The form of one response.

    **Fields:**

    - `request`: what was asked for.
    - `chat`: whether it was a chat.
    - `id`, `created`, `model`: as in the response.
    - `pieces`: the bytes of every token.
    """

    request: Request
    chat: bool
    id: str
    created: int
    model: str
    pieces: Sequence[bytes]

    def body(self, completions: Sequence[Completion]) -> Json:
        """The response with all completions."""
        choices = [
            self._choice(Delta(i, x.content, x.tokens, x.log_probs, x.finish, x.calls))
            | ({"prompt_token_ids": x.prompt} if self.request.token_ids else {})
            for i, x in enumerate(completions)
        ]
        usage = self._usage(completions)
        return self._head(stream=False) | {"choices": choices, "usage": usage}

    def first(self) -> Iterator[Json]:
        """The events before any token."""
        if not self.chat:
            return
        for index in range(self.request.n):
            delta = {"role": "assistant", "content": ""}
            choice = {"index": index, "delta": delta, "logprobs": None}
            choice["finish_reason"] = None
            yield self._head(stream=True) | {"choices": [choice]}

    def event(self, new: Delta) -> Json:
        """The event of what is new of a completion."""
        choice = self._choice(new, stream=True)
        return self._head(stream=True) | {"choices": [choice]}

    def last(self, completions: Sequence[Completion]) -> Iterator[Json]:
        """The events after all tokens."""
        if self.request.include_usage:
            usage = self._usage(completions)
            yield self._head(stream=True) | {"choices": [], "usage": usage}

    def _head(self, *, stream: bool) -> Json:
        kind = "text_completion"
        if self.chat:
            kind = "chat.completion.chunk" if stream else "chat.completion"
        return dict(id=self.id, object=kind, created=self.created, model=self.model)

    def _choice(self, new: Delta, *, stream: bool = False) -> Json:
        found: Json = {"index": new.index}
        message: Json = {"content": new.text}
        if new.calls:
            called = [_called(number, x) for number, x in enumerate(new.calls)]
            message = {"content": new.text or None, "tool_calls": called}
        if not self.chat:
            found["text"] = new.text
        elif stream:
            found["delta"] = message
        else:
            found["message"] = {"role": "assistant", **message, "refusal": None}
        found["logprobs"] = None
        if self.request.log_probs:
            found["logprobs"] = self._log_probs(new.tokens, new.log_probs)
        if self.request.token_ids:
            found["token_ids"] = list(new.tokens)
        finish = new.finish
        if new.calls and finish == STOP:
            finish = "tool_calls"
        return found | {"finish_reason": finish}

    def _log_probs(self, tokens: Sequence[int], log_probs: Sequence[float]) -> Json:
        pieces = [self.pieces[x] if x < len(self.pieces) else b"" for x in tokens]
        texts = [piece.decode(errors="replace") for piece in pieces]
        every = zip(texts, pieces, log_probs, strict=True)
        if not self.chat:
            return {
                "tokens": texts,
                "token_logprobs": list(log_probs),
                "top_logprobs": [{text: x} for text, _, x in every],
                "text_offset": [sum(map(len, texts[:i])) for i in range(len(texts))],
            }
        content = []
        for text, piece, log_prob in every:
            own = {"token": text, "logprob": log_prob, "bytes": list(piece)}
            content.append(own | {"top_logprobs": [own]})
        return {"content": content, "refusal": None}

    def _usage(self, completions: Sequence[Completion]) -> Json:
        # A prompt is read once for all of its completions.
        prompt = sum(map(len, self.request.prompts))
        completion = sum(len(x.tokens) for x in completions)
        return {
            "prompt_tokens": prompt,
            "completion_tokens": completion,
            "total_tokens": prompt + completion,
        }


def _called(number: int, call: ToolCall) -> Json:
    # Templates of Mistral take names of nine letters and digits alone.
    function = {"name": call.name, "arguments": json.dumps(call.arguments)}
    name = f"c{secrets.token_hex(4)}"
    return {"index": number, "id": name, "type": "function", "function": function}
