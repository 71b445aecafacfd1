"""Replies to turns of a policy, as tokens that follow them."""

from collections.abc import Mapping, Sequence
from typing import Any

from .tokenizer import AbstractTokenizer


Messages = Sequence[Mapping[str, object]]

_TURN = "7"  # In place of the policy's turns: no template changes it.


def reply_tokens(
    tokenizer: AbstractTokenizer,
    messages: Messages,
    replies: Sequence[str],
    *,
    role: str = "user",
    **variables: Any,
) -> list[list[int]]:
    """The tokens of replies to a turn of the policy, by the tokenizer's chat template.

        chat(messages + [turn, reply]) = chat(messages) turn end tokens

    where `end` is the token with which the policy ends its turn: a reply is what one
    rendering of the conversation has and the other has not. It includes the beginning
    of the policy's next turn. With these tokens any number of turns and replies equals
    the whole conversation, rendered and tokenized at once; it is checked for two.

    **Arguments:**

    - `tokenizer`: has a chat template.
    - `messages`: of the prompt.
    - `replies`: the texts of one reply each.
    - `role`: of the replies, such as `"user"` or `"tool"`.
    - `variables`: further variables of the template.

    **Returns:** the tokens of each reply, without the token that ends the turn.

    **Raises:** `ValueError` if the template refuses the conversation, changes earlier
    turns once there are later ones, or ends a turn with no token that ends one.

    !!! example

        ```python
        asked = [{"role": "user", "content": "Guess my number."}]
        lower, higher = reply_tokens(tokenizer, asked, ["Lower.", "Higher."])
        ```
    """
    turn = {"role": "assistant", "content": _TURN}
    said = lambda reply: {"role": role, "content": reply}
    render = lambda more: tokenizer.chat_text([*messages, *more], **variables)
    start, found, first = render([]), [], ""
    for reply in replies:
        before, after = _split(start, render([turn, said(reply)]))
        first = first or after
        twice = render([turn, said(replies[0]), turn, said(reply)])
        if twice != before + first + before[len(start) :] + after:
            raise _changes(twice)
        found.append(_difference(tokenizer, before, before + after))
    return found


def text_reply_tokens(
    tokenizer: AbstractTokenizer, replies: Sequence[str], *, before: str = "\n"
) -> list[list[int]]:
    """The tokens of replies in plain text, as they continue a text.

    **Arguments:**

    - `tokenizer`: the policy's.
    - `replies`: the texts of one reply each.
    - `before`: the end of the turn, such as a newline.

    **Returns:** the tokens of each reply.
    """
    found = []
    for reply in replies:
        start = tokenizer.encode(_TURN + before)
        whole = tokenizer.encode(_TURN + before + reply)
        together = whole[: len(start)] == start
        found.append(whole[len(start) :] if together else tokenizer.encode(reply))
    return found


def _split(start: str, rendered: str) -> tuple[str, str]:
    """A rendering up to the end of its first turn, and the rest."""
    # Some templates put a space in front of a turn, which the policy then samples.
    for before in (start + _TURN, f"{start} {_TURN}"):
        if rendered.startswith(before):
            return before, rendered[len(before) :]
    raise _changes(rendered)


def _difference(tokenizer: AbstractTokenizer, before: str, rendered: str) -> list[int]:
    """The tokens that a text adds to its beginning, after those that end a turn."""
    start, tokens = tokenizer.encode(before), tokenizer.encode(rendered)
    rest = tokens[len(start) :]
    if tokens[: len(start)] != start or rest[:1] == []:
        raise ValueError(
            "The tokens of a reply follow those of the turn before it. Received a chat "
            f"template after whose turns text is tokenized together with them: "
            f"{rendered[len(before) :]!r:.80}. Reply in plain text instead, with "
            "`data.chat: false`."
        )
    if rest[0] not in tokenizer.end_tokens:
        raise ValueError(
            "A turn of the chat template ends with a token that ends one. Received "
            f"{tokenizer.piece(rest[0])!r}, and the end tokens are "
            f"{[tokenizer.piece(x) for x in tokenizer.end_tokens]}: add it to "
            "`eos_token_id` in generation_config.json."
        )
    return rest[1:]


def _changes(rendered: str) -> ValueError:
    return ValueError(
        "Replies need a chat template that only adds to a conversation. Received one "
        "that changes or leaves out earlier turns, or begins the next one otherwise "
        f"than it writes it: {rendered!r:.200}. Reply in plain text instead, with "
        "`data.chat: false`, or correct `chat_template` in the tokenizer's files."
    )
