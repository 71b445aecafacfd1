"""Replies as tokens: by the chat template, as what follows an assistant's turn."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from ..text import AbstractTokenizer


Message = Mapping[str, Any]

# What is rendered in place of the turn, so that what follows it can be found.
_SAID = "8Zq3vXw0"

_CHARACTERS_PER_TOKEN = 64  # More than any token of text has, except runs of spaces.


def render_reply(
    tokenizer: AbstractTokenizer,
    replies: Sequence[Message],
    *,
    chat: bool,
    ended: bool,
    room: int,
) -> list[int]:
    """The tokens that follow a turn: replies, and the beginning of the next turn.

    **Arguments:**

    - `replies`: messages.
    - `chat`: whether they are rendered by the chat template; else their contents are
        the reply.
    - `ended`: whether the turn ended with an end token, which is then not repeated.
    - `room`: the most tokens.

    **Raises:** `ValueError` for replies that the template does not take.
    """
    most = _CHARACTERS_PER_TOKEN * (room + 1)
    replies = [{**x, "content": as_text(x["content"])[:most]} for x in replies]
    if chat:
        text = _rendered(tokenizer, replies, ended)
    else:
        text = "".join(x["content"] for x in replies)
    return tokenizer.encode(text)[: max(room, 0)]


def as_text(value: object) -> str:
    """A text that can be encoded: surrogates become question marks."""
    return str(value).encode("utf-8", "replace").decode("utf-8")


def _rendered(
    tokenizer: AbstractTokenizer, replies: Sequence[Message], ended: bool
) -> str:
    is_tool = any(x["role"] == "tool" for x in replies)
    if is_tool:
        text = _after_turn(tokenizer, _call(), replies, ended)
        if text is not None:
            return text
        # The template has no tools: its users speak for them.
        spoken = lambda text: f"<tool_response>\n{text}\n</tool_response>"
        replies = [
            {"role": "user", "content": spoken(x["content"])}
            if x["role"] == "tool"
            else x
            for x in replies
        ]
        if all(x["role"] == "user" for x in replies):
            every = "\n".join(x["content"] for x in replies)
            replies = [{"role": "user", "content": every}]
    text = _after_turn(tokenizer, {"content": _SAID}, replies, ended)
    if text is None:
        roles = ", ".join(str(x["role"]) for x in replies)
        raise ValueError(
            "A reply is rendered by the tokenizer's chat template. Received messages "
            f"of {roles}, which it refuses or leaves out: reply with a text, or with "
            "messages that it has."
        )
    return text


def _call() -> Message:
    function = {"name": "f", "arguments": {"x": _SAID}}
    return {
        "content": "",
        "tool_calls": [{"type": "function", "id": "call00000", "function": function}],
    }


def _after_turn(
    tokenizer: AbstractTokenizer,
    turn: Message,
    replies: Sequence[Message],
    ended: bool,
) -> str | None:
    """What a conversation has after the end of a turn; `None` if it has not."""
    asked = {"role": "user", "content": "?"}
    said = {"role": "assistant", **turn}
    try:
        text = tokenizer.chat_text([asked, said, *replies])
    except ValueError:
        return None
    _, found, after = text.rpartition(_SAID)
    if not found:
        return None
    pieces = [tokenizer.piece(token) for token in tokenizer.end_tokens]
    ends = [(after.find(x), x) for x in pieces if x and x in after]
    place, piece = min(ends, default=(0, ""))
    if not piece and "tool_calls" in turn:
        return None
    reply = after[place + len(piece) if ended else place :]
    # A template may escape a content, or leave out a role that it does not know.
    words = [re.search(r"\w{1,20}", x["content"]) for x in replies]
    shown = all(word is None or word[0] in after for word in words)
    return reply if shown else None
