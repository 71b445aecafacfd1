"""One conversation on the host: its state, its messages and its answers."""

import inspect
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from ..calls import call_once
from ..text import AbstractTokenizer
from ._render import as_text, Message, render_reply
from ._tools import ToolCalls, Tools


class Reply(NamedTuple):
    """What a host environment answers to a turn.

    **Fields:**

    - `content`: what the policy reads next: a text, a message or several; `None` ends
        the conversation.
    - `reward`: of this turn; the rewards of all turns are added up.
    - `done`: whether the conversation is over; the content is then not read.
    """

    content: str | Message | Sequence[Message] | None = None
    reward: float = 0.0
    done: bool = False


class Answered(NamedTuple):
    """The answer to a turn, as tokens."""

    reply: list[int] = []
    reward: float = 0.0
    done: bool = True
    rejected: bool = False
    error: Exception | None = None


class Settings(NamedTuple):
    """What all conversations of an environment have in common."""

    host: Any
    tokenizer: AbstractTokenizer
    chat: bool
    seconds: float

    @property
    def is_shared(self) -> bool:
        """Whether the host environment is one object for all rows."""
        return hasattr(self.host, "step") and not isinstance(self.host, type)


class Episode:
    """One row of a rollout. Its methods are called by one thread at a time."""

    def __init__(self, of: Settings, row: Mapping[str, Any], prompt: list[int]):
        self._of, self._row = of, row
        self._messages = _opening(row, of.tokenizer.decode(prompt))
        self._tokens, self._session = list(prompt), None

    @property
    def counts(self) -> dict[str, int]:
        """Calls of tools, and those that failed."""
        session = self._session
        if not isinstance(session, ToolCalls):
            return {}
        return {"calls": session.calls, "failures": session.failures}

    def take_turn(self, turn: list[int], ended: bool, room: int) -> Answered:
        """The answer to a turn; what a user's code raises is part of it.

        **Arguments:**

        - `turn`: its tokens.
        - `ended`: whether the last token ends it.
        - `room`: the most tokens of a reply; 0 after the last turn.
        """
        try:
            return self._take_turn(turn, ended, room)
        except Exception as error:  # A user's code may raise anything.
            return Answered(error=error)

    def _take_turn(self, turn: list[int], ended: bool, room: int) -> Answered:
        self._open()
        tokenizer, session = self._of.tokenizer, self._session
        self._tokens += turn
        has_end = ended and turn[-1] in tokenizer.end_tokens
        if isinstance(session, ToolCalls):
            if room <= 0:
                return Answered()
            text = spelled(tokenizer, turn[:-1] if has_end else turn)
            replies, answer = session.take_turn(text), Reply()
        else:
            said = {"role": "assistant", "content": tokenizer.decode(turn)}
            self._messages.append(said)
            found = self._step()
            if found is None:
                return Answered(rejected=True)
            answer, replies = found, _messages(found.content)
            self._messages += replies
        reward = float(answer.reward)
        if answer.done or not replies or room <= 0:
            return Answered(reward=reward)
        reply = render_reply(
            tokenizer, replies, chat=self._of.chat, ended=has_end, room=room
        )
        self._tokens += reply
        return Answered(reply, reward, done=False)

    def dry_call(self) -> None:
        """Opens and closes the conversation; see `HostEnvironment.dry_call`."""
        try:
            self._open()
            inspect.signature(self._session.step).bind(())  # pyright: ignore
        except (TypeError, ImportError, AttributeError) as error:
            raise ValueError(
                "A host environment is made without arguments, and has the methods "
                "`reset(row)`, if any, and `step(messages)`. Received "
                f"{type(error).__name__} from {self._of.host!r:.80}: {error}. Correct "
                "it."
            ) from error
        except Exception as error:  # A user's code may raise anything.
            _logger.warning(
                "The host environment failed on one row before the first step. %s: %s",
                *(type(error).__name__, error),
            )
        finally:
            self.close()

    def _open(self) -> None:
        host, seconds = self._of.host, self._of.seconds
        if self._session is not None:
            return
        if isinstance(host, Tools):
            self._session = ToolCalls(host, seconds)
            return
        made = host if self._of.is_shared else call_once(host, {}, seconds)
        self._session = made
        if hasattr(made, "reset"):
            own = call_once(lambda: made.reset(dict(self._row)), {}, seconds)
            if hasattr(own, "step"):
                self._session = own

    def _step(self) -> Reply | None:
        step: Callable[..., Any] = self._session.step  # pyright: ignore
        if next(iter(inspect.signature(step).parameters), "") == "text":
            said = self._of.tokenizer.decode(self._tokens)
        else:
            said = [dict(x) for x in self._messages]
        found = call_once(lambda: step(said), {}, self._of.seconds)
        if found is None:
            return None
        return Reply(*found) if isinstance(found, tuple) else Reply(found)

    def close(self) -> None:
        """Closes the state that is the row's own; errors are logged."""
        session, self._session = self._session, None
        close = getattr(session, "close", None)
        if close is None or session is self._of.host:
            return
        try:
            call_once(close, {}, self._of.seconds)
        except Exception as error:  # A user's code may raise anything.
            _logger.warning("A host environment could not be closed: %s", error)


_logger = logging.getLogger("grpojax.reward")


def _opening(row: Mapping[str, Any], prompt: str) -> list[Message]:
    """The messages of a row, or its prompt as the user's."""
    for name in ("messages", "prompt"):
        value = row.get(name)
        if isinstance(value, Sequence) and not isinstance(value, str) and value:
            if all(isinstance(x, Mapping) and "role" in x for x in value):
                return [dict(x) for x in value]
    return [{"role": "user", "content": prompt}]


def _messages(content: object) -> list[Message]:
    if content is None:
        return []
    if isinstance(content, Mapping):
        content = [content]
    if isinstance(content, Sequence) and not isinstance(content, str):
        if all(isinstance(x, Mapping) and "role" in x for x in content):
            return [{"content": "", **x} for x in content]
    return [{"role": "user", "content": as_text(content)}]


def spelled(tokenizer: AbstractTokenizer, tokens: list[int]) -> str:
    """The text of tokens, special ones included, which `decode` skips."""
    parts: list[str] = []
    run: list[int] = []
    for token in tokens:
        if not tokenizer.is_skipped(token):
            run.append(token)
            continue
        parts += [tokenizer.decode(run), tokenizer.piece(token) or ""]
        run = []
    return "".join([*parts, tokenizer.decode(run)])
