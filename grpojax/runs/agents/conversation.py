"""The calls of one episode, as one sequence of tokens."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from ...host._render import render_reply
from ...text import AbstractTokenizer, text_reply_tokens
from ..serve.generation import Completion, Generation, TextReader
from ..serve.protocol.fields import Reader, RefusedError
from ..serve.protocol.messages import Chat, read_chat
from ..serve.protocol.request import read_prompts
from ..serve.rows import STOP


@dataclasses.dataclass
class Recorded:
    """What an episode has sampled, and what it was told.

    **Fields:**

    - `prompt`: tokens of the first call.
    - `tokens`, `sampled`, `log_probs`: of each token after it; those of replies are not
        `sampled`.
    - `turn`: tokens of the last completion.
    - `ended`: whether that has ended by itself; else its length was limited.
    """

    prompt: list[int] = dataclasses.field(default_factory=list)
    tokens: list[int] = dataclasses.field(default_factory=list)
    sampled: list[bool] = dataclasses.field(default_factory=list)
    log_probs: list[float] = dataclasses.field(default_factory=list)
    turn: list[int] = dataclasses.field(default_factory=list)
    ended: bool = False

    def append(self, tokens: Sequence[int], log_probs: Sequence[float] | None) -> None:
        """Appends tokens that were sampled, or a reply, which has no log-probs."""
        own = log_probs is not None
        self.tokens += tokens
        self.sampled += [own] * len(tokens)
        self.log_probs += log_probs if own else [0.0] * len(tokens)


@dataclasses.dataclass
class _Call:
    """A call whose completion is not yet part of the conversation.

    `asked` is a chat, a text, or tokens; `reply` are the tokens that it adds.
    """

    asked: Chat | str | list[int]
    reply: list[int]
    generation: Generation | None = None

    @property
    def completion(self) -> Completion | None:
        """What was answered; `None` if nobody has waited for it."""
        made = self.generation
        return None if made is None or made.cancelled else made.completions[0]

    @property
    def is_under_way(self) -> bool:
        """Whether it is still to be answered."""
        if self.generation is None:
            return True
        return self.completion is not None and self.completion.finish is None


class Conversation:
    """The calls of one episode: each continues the conversation of those before.

    A chat continues it with all of its messages, the answer, and further messages,
    which the template renders as the difference of two conversations; a text, or
    tokens, by beginning with it. What was sampled stays as it was sampled, whatever
    text the client makes of it.

    **Arguments:**

    - `tokenizer`: the policy's.
    - `max_prompt`: the most tokens of the first prompt.
    - `room`: the most tokens after it.
    """

    def __init__(self, tokenizer: AbstractTokenizer, max_prompt: int, room: int):
        self.recorded, self.full = Recorded(), False
        self._tokenizer, self._max_prompt, self._room = tokenizer, max_prompt, room
        self._asked: Chat | str | list[int] | None = None
        self._answer = Completion([])
        self._call: _Call | None = None

    @property
    def left(self) -> int:
        """The most tokens of the completion that is asked for."""
        used = len(self.recorded.tokens)
        if self._call is not None and self._asked is not None:
            used += len(self._call.reply)
        return self._room - used

    def ask(self, read: Reader, chat: bool) -> list[int]:
        """All tokens before the completion that a call asks for.

        **Raises:** `RefusedError` for a call that does not continue the conversation,
        or has no room for a completion.
        """
        if self._call is not None and self._call.is_under_way:
            raise RefusedError(
                "An episode is one conversation, so its calls come one after the other."
                " Received a second one while the first is answered: await it."
            )
        self._settle()
        asked: Any = read_chat(read) if chat else read.body.get("prompt")
        if (
            isinstance(asked, list)
            and len(asked) == 1
            and not isinstance(asked[0], int)
        ):
            (asked,) = asked  # A list of one prompt.
        if self._asked is None:
            (tokens,) = _one(read_prompts(read, self._tokenizer, chat=chat))
            if len(tokens) > self._max_prompt:
                raise RefusedError(
                    f"The first prompt of an episode has at most {self._max_prompt} "
                    f"tokens. Received {len(tokens)}: shorten it, or raise "
                    "`environment.max_prompt`."
                )
        else:
            tokens = self._continued(asked)
        self._call = _Call(asked, tokens)
        if self.left < 1:
            self._call, self.full = None, True
            self.recorded.ended = False  # The horizon cuts the conversation.
            raise RefusedError(
                "An episode has at most `rollout.max_new_tokens` tokens after its first"
                f" prompt, {self._room}. Received a call that leaves no room for a "
                "completion: end the episode, or raise the limit."
            )
        recorded = self.recorded
        return [*recorded.prompt, *recorded.tokens, *tokens]

    def begin(self, generation: Generation) -> None:
        """Begins the completion of the call that was asked for."""
        assert self._call is not None
        self._call.generation = generation

    def close(self) -> Recorded:
        """The end of the conversation; a completion under way is cancelled."""
        call = self._call
        if call is not None and call.generation is not None:
            call.generation.cancel()
        self._settle()
        return self.recorded

    def _settle(self) -> None:
        """The last call's completion becomes a part of the conversation."""
        call, self._call = self._call, None
        if call is None or call.completion is None:
            return
        completion, recorded = call.completion, self.recorded
        if self._asked is None:
            recorded.prompt = call.reply
        else:
            recorded.append(call.reply, None)
        recorded.append(completion.tokens, completion.log_probs)
        recorded.turn, recorded.ended = completion.tokens, completion.finish == STOP
        self._asked, self._answer = call.asked, completion

    def _continued(self, asked: Any) -> list[int]:
        """The tokens that a call adds to the conversation."""
        before, answer, tokenizer = self._asked, self._answer, self._tokenizer
        if isinstance(before, Chat) and isinstance(asked, Chat):
            number, messages = len(before.messages), asked.messages
            same = asked.variables == before.variables
            same &= list(messages[:number]) == list(before.messages)
            if same and number + 1 < len(messages):
                if _is_answer(messages[number], answer):
                    return self._rendered(messages[number + 1 :])
        elif isinstance(before, str) and isinstance(asked, str):
            known, hidden = before + answer.text, self._hidden()
            if asked.startswith(known):
                rest = asked[len(known) :].removeprefix(hidden)
                last = (known + hidden)[-1:]
                return text_reply_tokens(tokenizer, [rest], before=last)[0]
        elif isinstance(before, list) and isinstance(asked, list):
            known = [*self.recorded.prompt, *self.recorded.tokens]
            if asked[: len(known)] == known:
                return asked[len(known) :]
        raise RefusedError(
            "A call of an episode continues its conversation: it has all of the call "
            "before, what that was answered, and something new. Received another one: "
            "send the whole conversation, or start an episode for it.",
            "messages" if isinstance(asked, Chat) else "prompt",
        )

    def _rendered(self, replies: Sequence[dict[str, Any]]) -> list[int]:
        tokenizer, turn = self._tokenizer, self.recorded.turn
        ended = self.recorded.ended and turn[-1] in tokenizer.end_tokens
        # One token more than there is room for shows that a reply does not fit.
        try:
            return render_reply(
                tokenizer, replies, chat=True, ended=ended, room=self._room + 1
            )
        except ValueError as error:
            raise RefusedError(str(error), "messages") from None

    def _hidden(self) -> str:
        """The text of the last completion that its client has not seen: a stop."""
        reader = TextReader(self._tokenizer.pieces_as_bytes())
        text = "".join(map(reader.read, self.recorded.turn)) + reader.flush()
        return text[len(self._answer.text) :]


def _one(prompts: list[list[int]]) -> list[list[int]]:
    if len(prompts) != 1:
        raise RefusedError(
            f"A call of an episode has one prompt. Received {len(prompts)}: make a call"
            " for each.",
            "prompt",
        )
    return prompts


def _is_answer(message: dict[str, Any], answer: Completion) -> bool:
    """Whether a message is what the assistant was heard to say."""
    if message["role"] != "assistant":
        return False
    calls = message.get("tool_calls", [])
    named = [x["function"]["name"] for x in calls]
    same = message["content"].strip() == answer.content.strip()
    return same and named == [x.name for x in answer.calls]


def seed_of(row: int, call: int) -> int:
    """The seed of one of the calls of a row.

    **Arguments:**

    - `row`: bits of its key.
    - `call`: its number.
    """
    return int(np.random.SeedSequence([row, call]).generate_state(1)[0] >> 1)
