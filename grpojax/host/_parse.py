"""Calls of tools in a turn, in the formats that chat templates teach."""

import json
import re
from collections.abc import Iterator
from typing import Any, NamedTuple


class ToolCall(NamedTuple):
    """A call that a turn asks for.

    **Fields:**

    - `name`, `arguments`: of the function.
    - `error`: what is wrong with it, if it cannot be read.
    """

    name: str
    arguments: dict[str, Any]
    error: str | None = None


# Qwen, Hermes, SmolLM: a turn may be cut before the closing tag.
_TAGGED = re.compile(r"<tool_call>\s*(.*?)\s*(?:</tool_call>|\Z)", re.DOTALL)
_MISTRAL, _ARGS, _PYTHON = "[TOOL_CALLS]", "[ARGS]", "<|python_tag|>"
_decoder = json.JSONDecoder()


def tool_calls(text: str) -> list[ToolCall]:
    """The calls in a turn, in order.

    **Arguments:**

    - `text`: of the turn, special tokens spelled out and its end token left out.

    **Returns:** the calls in any of the formats of

    - Qwen and Hermes, `<tool_call>{"name": ..., "arguments": {...}}</tool_call>`;
    - Mistral, `[TOOL_CALLS][{"name": ..., "arguments": {...}}]`, or
        `[TOOL_CALLS]name[ARGS]{...}`;
    - Llama 3, the whole turn `{"name": ..., "parameters": {...}}`, several with `;`
        between them, after `<|python_tag|>` or without it.
    """
    if "<tool_call>" in text:
        return [_read(x) for x in _TAGGED.findall(text)]
    if _MISTRAL in text:
        return list(_mistral(text))
    said = text.strip()
    if said.startswith(_PYTHON):
        return _objects(said.removeprefix(_PYTHON)) or [_refused(said)]
    calls = _objects(said) if said.startswith("{") else []
    return calls if all(x.error is None for x in calls) else []


def split_calls(text: str) -> tuple[str, list[ToolCall]]:
    """The text before the calls of a turn, and the calls, if all of them can be read.

    Otherwise they are text as well.

    **Arguments:**

    - `text`: as in `tool_calls`.
    """
    calls = tool_calls(text)
    if not calls or any(call.error is not None for call in calls):
        return text, []
    marks = [text.find(x) for x in ("<tool_call>", _MISTRAL, _PYTHON)]
    return text[: min([x for x in marks if x >= 0], default=0)].strip(), calls


def _mistral(text: str) -> Iterator[ToolCall]:
    for part in text.split(_MISTRAL)[1:]:
        name, args, arguments = part.partition(_ARGS)
        if args:
            call = {"name": name.strip(), "arguments": arguments.strip()}
            yield _call(call, part)
            continue
        try:
            found, _ = _decoder.raw_decode(part.strip())
        except ValueError:
            yield _refused(part)
            continue
        for call in found if isinstance(found, list) else [found]:
            yield _call(call, part)


def _objects(text: str) -> list[ToolCall]:
    """Several JSON objects, with `;` or nothing between them."""
    calls, rest = [], text.strip()
    while rest:
        try:
            found, end = _decoder.raw_decode(rest)
        except (ValueError, RecursionError):
            return [*calls, _refused(rest)]
        calls.append(_call(found, rest))
        rest = rest[end:].lstrip(" \n;")
    return calls


def _read(text: str) -> ToolCall:
    try:
        return _call(json.loads(text), text)
    except (ValueError, RecursionError):
        return _refused(text)


def _call(found: object, text: str) -> ToolCall:
    if not isinstance(found, dict) or not isinstance(found.get("name"), str):
        return _refused(text)
    arguments = found.get("arguments", found.get("parameters", {}))
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments)
        except (ValueError, RecursionError):
            return _refused(text)
    if not isinstance(arguments, dict):
        return _refused(text)
    return ToolCall(found["name"], arguments)


def _refused(text: str) -> ToolCall:
    return ToolCall("", {}, f"a call is a JSON object with a name, not {text!r:.80}")
