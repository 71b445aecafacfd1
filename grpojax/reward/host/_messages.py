"""Prompts and completions as messages, where the rows have them."""

from collections.abc import Mapping, Sequence


Messages = Sequence[Mapping[str, object]]

_COLUMNS = ("messages", "prompt")


def messages_of(
    rows: Mapping[str, Sequence], numbers: Sequence[int]
) -> list[Messages | None]:
    """The conversation in each of some rows, if there is one."""
    columns = [rows[name] for name in _COLUMNS if name in rows]

    def find(number: int) -> Messages | None:
        return next((x[number] for x in columns if _is_messages(x[number])), None)

    return [find(number) for number in numbers]


def as_messages(
    texts: Sequence[str],
    conversations: Sequence[Messages | None] | None,
    *,
    completion: bool,
) -> list:
    """Texts, or messages where the row has a conversation.

    **Arguments:**

    - `completion`: whether the texts are the assistant's, and not the conversations.
    """
    if conversations is None:
        return list(texts)
    said = lambda text: [{"role": "assistant", "content": text}]
    return [
        text if known is None else said(text) if completion else list(known)
        for text, known in zip(texts, conversations, strict=True)
    ]


def text_of(said: str | Messages) -> str:
    """A prompt or a completion as text: a message's content, one line for each."""
    if isinstance(said, str):
        return said
    return "\n".join(str(message.get("content", "")) for message in said)


def _is_messages(value: object) -> bool:
    return (
        isinstance(value, Sequence)
        and not isinstance(value, str)
        and len(value) > 0
        and all(isinstance(x, Mapping) and "role" in x for x in value)
    )
