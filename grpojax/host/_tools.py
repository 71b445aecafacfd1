"""Python functions that a model may call."""

import json
from collections.abc import Callable, Sequence
from typing import Any

from ..calls import call_once
from ..text import json_schemas
from ._parse import tool_calls
from ._render import as_text, Message


class Tools:
    """Python functions as tools, which a turn calls in the format of its model.

    The results are the reply, a message of the role `tool` for each call; a turn that
    calls nothing ends the conversation. A call that cannot be read, or that raises or
    exceeds its time limit, is answered with `{"error": ...}`.

    **Arguments:**

    - `functions`: with type hints and a docstring in Google's style, `async` or not.
        `text.json_schemas` makes their schemas.
    - `max_calls`: the most calls of one conversation; further ones get an error.

    **Raises:** `ValueError` for a function that has no schema, or for two of one name.

    !!! example

        ```python
        def multiply(a: int, b: int) -> int:
            \"\"\"The product of two numbers.

            Args:
                a: the first one.
                b: the second one.
            \"\"\"
            return a * b

        tokenizer = tokenizer.with_tools([multiply])  # Prompts describe the tools.
        env = HostEnvironment(GSM8K(rows, tokenizer), Tools([multiply]), tokenizer)
        ```
    """

    def __init__(self, functions: Sequence[Callable[..., Any]], *, max_calls: int = 16):
        json_schemas(list(functions))
        self.functions = {x.__name__: x for x in functions}
        self.max_calls = max_calls
        if len(self.functions) < len(functions) or not functions:
            raise ValueError(
                "Tools are functions of different names, at least one. Received "
                f"{[x.__name__ for x in functions]}: rename one of them."
            )
        if max_calls < 1:
            raise ValueError(
                f"`max_calls` must be at least 1. Received max_calls={max_calls}."
            )

    @property
    def described(self) -> list[Callable[..., Any]]:
        """What `AbstractTokenizer.with_tools` takes."""
        return list(self.functions.values())


class ToolCalls:
    """The calls of one conversation, and how many failed."""

    def __init__(self, tools: Tools, seconds: float):
        self.tools, self.seconds = tools, seconds
        self.calls = self.failures = 0

    def take_turn(self, text: str) -> list[Message]:
        """Calls what a turn asks for, and returns the results as messages.

        **Arguments:**

        - `text`: of the turn, special tokens spelled out.
        """
        replies = []
        for call in tool_calls(text):
            self.calls += 1
            result, failed = self._call(call.name, call.arguments, call.error)
            self.failures += failed
            number = f"call{self.calls:05d}"  # Mistral's are of nine characters.
            known = {"name": call.name, "tool_call_id": number, "content": result}
            replies.append({"role": "tool", **known})
        return replies

    def _call(
        self, name: str, arguments: dict[str, Any], error: str | None
    ) -> tuple[str, bool]:
        """The result as text, and whether the call failed."""
        tools = self.tools
        if error is None and self.calls > tools.max_calls:
            error = f"no more than {tools.max_calls} calls"
        if error is None and name not in tools.functions:
            error = f"there is no tool {name!r}, but {', '.join(tools.functions)}"
        if error is None:
            try:
                found = call_once(tools.functions[name], arguments, self.seconds)
                return _written(found), False
            except Exception as raised:  # A user's function may raise anything.
                error = f"{type(raised).__name__}: {raised}"
        return json.dumps({"error": as_text(error)}, ensure_ascii=False), True


def _written(result: object) -> str:
    if isinstance(result, str):
        return as_text(result)
    return as_text(json.dumps(result, ensure_ascii=False, default=str))
