"""From the columns of a row to the tokens of its prompt."""

import functools as ft
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TYPE_CHECKING

from grpojax.text import AbstractTokenizer

from .rows._load import column_of


if TYPE_CHECKING:
    import jinja2

Message = Mapping[str, str]
"""A turn of a conversation: its `role` and its `content`."""

Asked = str | list[Message]
"""What a row asks: a text or a conversation, without shots and instructions."""


@dataclass(frozen=True)
class PromptFormat:
    """How rows become prompts.

    A text is the prompt itself, or with `chat` a message of the user. A conversation is
    always rendered by the tokenizer's chat template.

    **Fields:**

    - `prompt`: a column that holds a text, or a list of messages; a jinja template over
        the columns, `"{{ a }} + {{ b }} ="`; or messages with such templates,
        `[{"role": "user", "content": "{{ question }}"}]`.
    - `chat`: whether a text is rendered by the tokenizer's chat template.
    - `system_prompt`: instructions in front of every prompt.
    - `last_reply`: whether a conversation that ends with a message of the assistant is
        an error (`"raise"`), or that message is left out of the prompt (`"drop"`).

    **Raises:** `ValueError` for a template that cannot be compiled.

    !!! example

        ```python
        plain = PromptFormat("Question: {{ question }}\\nAnswer:")
        chat = PromptFormat("question", chat=True, system_prompt="Think first.")
        ```
    """

    prompt: str | Sequence[Message] = "question"
    chat: bool = False
    system_prompt: str | None = None
    last_reply: str = "raise"

    def __post_init__(self):
        given = [self.prompt] if isinstance(self.prompt, str) else self.prompt
        for part in given:
            text = part if isinstance(part, str) else part["content"]
            if is_template(text):
                _compile(text)

    def asked(self, row: Mapping[str, object]) -> Asked:
        """The text or the conversation of a row.

        **Raises:** `ValueError` that says what the row lacks.
        """
        if not isinstance(self.prompt, str):
            return [{**x, "content": _text(x["content"], row)} for x in self.prompt]
        if is_template(self.prompt):
            return _text(self.prompt, row)
        value: Any = column_of(row, self.prompt)
        if isinstance(value, list | tuple) and value:
            return _conversation(self.prompt, value, self.last_reply == "drop")
        if not isinstance(value, str):
            hint = ""
            if isinstance(value, Mapping) and value:
                hint = f"; a field of it is `{self.prompt}.{next(iter(value))}`"
            raise ValueError(f"its {self.prompt!r} is not a text: {value!r:.80}{hint}")
        if not value.strip():
            raise ValueError(f"its {self.prompt!r} is empty")
        return value

    def encode(
        self,
        tokenizer: AbstractTokenizer,
        row: Mapping[str, object],
        shots: Sequence[tuple[Asked, str]] = (),
    ) -> list[int]:
        """The tokens of a row's prompt.

            system_prompt "\\n\\n" (asked " " answer "\\n\\n")* asked

        **Arguments:**

        - `tokenizer`: the policy's.
        - `row`: the columns.
        - `shots`: what other rows ask, and their answers.
        """
        asked = self.asked(row)
        if isinstance(asked, str) and not self.chat:
            parts = [] if self.system_prompt is None else [self.system_prompt]
            parts += [f"{example} {answer}" for example, answer in shots]
            return tokenizer.encode_prompt("\n\n".join([*parts, asked]))
        messages: list[Message] = []
        if self.system_prompt is not None:
            messages += _messages(self.system_prompt, "system")
        for example, answer in shots:
            messages += [*_messages(example), *_messages(answer, "assistant")]
        return tokenizer.chat([*messages, *_messages(asked)])


def is_template(text: str) -> bool:
    """Whether a prompt is a jinja template, and not the name of a column."""
    return "{{" in text or "{%" in text


def worked_answer(answer: object, find: str) -> str:
    """A shot's answer, written as a completion should be.

    GSM8K's calculator annotations, `<<48/2=24>>`, are removed. A last line `#### 24`
    becomes `<answer>24</answer>` with `find="tag"`, as `grpojax.text.answer` defines
    it, and an answer without working is put in the same form. Of several the first is
    shown.
    """
    answer = answer[0] if isinstance(answer, list | tuple) else answer
    text = re.sub(r"<<[^<>]*>>", "", str(answer))
    if find in ("", "auto", "last", "all") or (find == "####" and find in text):
        return text
    working, _, number = text.rpartition("####")
    tag = "<answer>" if find == "tag" else find
    before, after = f"{find} ", ""
    if tag.startswith("<"):
        before, after = tag, f"</{tag[1:]}"
    elif find == "boxed":
        before, after = "\\boxed{", "}"
    return f"{working}{before}{number.strip()}{after}"


def _messages(said: Asked, role: str = "user") -> list[Message]:
    return [{"role": role, "content": said}] if isinstance(said, str) else said


def _conversation(
    column: str, values: Sequence[object], drop: bool = False
) -> list[Message]:
    messages = [_message(column, value) for value in values]
    if drop and messages[-1]["role"] == "assistant" and len(messages) > 1:
        return messages[:-1]
    if messages[-1]["role"] == "assistant":
        raise ValueError(
            f"its {column!r} ends with a message of the assistant, which is what is "
            "sampled: leave it out, or set `data.last_reply: drop`"
        )
    return messages


def _message(column: str, value: object) -> Message:
    """A message of a row's conversation, as chat templates take it."""
    if isinstance(value, Mapping):
        role, content = value.get("role"), value.get("content")
        if isinstance(role, str) and isinstance(content, str):
            return {"role": role, "content": content}
    raise ValueError(
        f"its {column!r} must hold messages with a `role` and a `content`, and has "
        f"{value!r:.80}"
    )


def _text(template: str, row: Mapping[str, object]) -> str:
    if not is_template(template):
        return template
    import jinja2

    try:
        text = _compile(template).render(row)
    except jinja2.UndefinedError as error:
        there = ", ".join(map(repr, row))
        raise ValueError(
            f"its prompt needs what is not there: {error}; there are {there}"
        ) from None
    except Exception as error:  # Whatever the template computes.
        raise ValueError(f"its prompt cannot be rendered: {error!r:.200}") from None
    if not text.strip():
        raise ValueError("its prompt is empty")
    return text


# A data set renders one template thousands of times, and compiling costs milliseconds.
@ft.lru_cache(maxsize=16)
def _compile(template: str) -> "jinja2.Template":
    import jinja2
    import jinja2.sandbox

    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
        undefined=jinja2.StrictUndefined, keep_trailing_newline=True
    )
    try:
        return environment.from_string(template)
    except jinja2.TemplateError as error:
        raise ValueError(
            f"A prompt with {{{{ }}}} must be a jinja template. Received {template!r}, "
            f"line {getattr(error, 'lineno', 1)}: {error}."
        ) from None
