"""The messages and tools of a chat, as its template takes them."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any

from ....text import AbstractTokenizer
from .fields import checked, Reader, refuse, RefusedError


Message = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Chat:
    """A conversation that a client sends.

    **Fields:**

    - `messages`: each with a `role` and a text as `content`.
    - `variables`: further ones of the chat template, `tools` among them.
    """

    messages: Sequence[Message]
    variables: Mapping[str, Any]

    def tokens(self, tokenizer: AbstractTokenizer) -> list[int]:
        """The tokens of the conversation up to the next turn of the assistant.

        **Raises:** `RefusedError` with the words of the template.
        """
        try:
            return tokenizer.chat(self.messages, **self.variables)
        except Exception as error:  # Variables of a client may break any of it.
            raise RefusedError(str(error), "messages") from None


def read_chat(read: Reader) -> Chat:
    """The conversation of a body.

    **Raises:** `RefusedError` for what is none.
    """
    value = read.body.get("messages")
    if not isinstance(value, list) or not value:
        raise refuse("messages", "a list of at least one message", value)
    variables = dict(read.mapping("chat_template_kwargs"))
    tools = _tools(read)
    if tools:
        variables["tools"] = tools
    checked("chat_template_kwargs", json.dumps(variables, ensure_ascii=False))
    return Chat([_message(message) for message in value], variables)


def _tools(read: Reader) -> list[Mapping[str, Any]]:
    """The schemas of the tools that the template offers."""
    choice, value = read.body.get("tool_choice", "auto"), read.body.get("tools", [])
    if choice not in ("auto", "none"):
        raise refuse("tool_choice", 'left out, "auto" or "none"', choice)
    named = isinstance(value, list) and all(
        isinstance(x, dict)
        and isinstance(x.get("function"), dict)
        and isinstance(x["function"].get("name"), str)
        for x in value
    )
    if not named:
        words = 'a list of {"type": "function", "function": {"name": ...}}'
        raise refuse("tools", words, value)
    return [] if choice == "none" else value


def _message(message: object) -> Message:
    if not isinstance(message, dict) or not isinstance(message.get("role"), str):
        raise refuse("messages", "made of objects with a `role` each", message)
    content, calls = message.get("content"), message.get("tool_calls")
    if isinstance(content, list):
        parts = [
            part.get("text") if isinstance(part, dict) else None for part in content
        ]
        if not all(isinstance(part, str) for part in parts):
            raise refuse("messages", "made of texts: no images, no audio", content)
        content = "".join(parts)  # pyright: ignore[reportArgumentType, reportCallIssue]
    if content is None and calls:
        content = ""
    if not isinstance(content, str):
        raise refuse("messages", "made of objects with a text as `content`", message)
    texts = {key: x for key, x in message.items() if isinstance(x, str)}
    texts |= {"content": content}
    found = {checked("messages", k): checked("messages", x) for k, x in texts.items()}
    return found | ({"tool_calls": _calls(calls)} if calls else {})


def _calls(calls: object) -> list[Message]:
    """Calls of an assistant's message; templates take their arguments as objects."""
    found = []
    for call in calls if isinstance(calls, list) else [None]:
        call = call if isinstance(call, dict) else {}
        function = call.get("function")
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise refuse("messages", "made of calls of a `function` with a name", calls)
        arguments = function.get("arguments", {})
        if isinstance(arguments, str):
            try:
                arguments = json.loads(arguments)
            except (ValueError, RecursionError):
                pass  # What the model wrote, as it wrote it.
        checked("messages", json.dumps(arguments, ensure_ascii=False))
        known = {k: x for k, x in call.items() if isinstance(x, str)}
        name = checked("messages", function["name"])
        function = {"name": name, "arguments": arguments}
        found.append({"type": "function", **known, "function": function})
    return found
