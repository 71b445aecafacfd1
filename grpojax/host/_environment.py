"""Problems whose conversations are answered by Python."""

from collections.abc import Callable
from typing import Any

import equinox as eqx

from .._checks import check_counts
from ..env import AbstractAnswerEnvironment, AbstractDatasetEnvironment
from ..text import AbstractTokenizer
from ..types import Trajectory
from ._abstract import AbstractHostEnvironment, HostAnswers
from ._drive import drive
from ._episode import Episode, Settings
from ._tools import Tools


class HostEnvironment(AbstractHostEnvironment):
    """The problems of an environment, with turns that Python answers.

    A rollout runs many conversations at a time, each with an object of its own:

        reset(row)              # Once. The columns of the problem's row, a mapping.
        step(messages)          # After each turn; also `step(text)`.
        close()                 # In the end, if there is such a method.

    Any of them may be `async`. `step` is given the conversation so far, a list of
    `{"role": ..., "content": ...}`, or, if its parameter is called `text`, the text of
    all tokens so far. It returns a `Reply`, a tuple of its fields, or its content
    alone; `None` rejects the row.

    Calls are made by many threads at a time while other rows are decoded. A row of
    which one raises, or exceeds `seconds`, is dropped from the step, as a rejected one
    is: no reward applies to it. Both are counted.

    The rewards are those of `env` for the last turn, and `environment`, the sum of the
    host's; `Tools` pay none. `reply` tokens are never trained on. A reply that does not
    fit into the horizon is cut, and its row is truncated.

    A rollout is not one program but several, and its tokens do not depend on how long
    the host takes. It cannot be part of a compiled function: `grpojax.fit`, evaluations
    and `TrainStep.generate` call it outside. The host must be in this process.

    **Fields:**

    - `env`: of numbered problems, in one turn; its horizon is that of all turns.
    - `host`: a class or a function without arguments that makes the object of a row; an
        object that all rows share, whose `reset` may return one of a row's own; or
        `Tools`.
    - `tokenizer`: the policy's.
    - `max_turns`: the most turns of a conversation.
    - `chat`: whether replies are rendered by the tokenizer's chat template, as the
        prompts were; else they are texts.
    - `seconds`: the time limit of every call.
    - `concurrency`: the most calls at a time.

    **Raises:** `ValueError` for sizes that are not positive, an environment of several
    turns, or a `host` without `step`.

    !!! example

        ```python
        class Guess:
            def reset(self, row):
                self.number = int(row["answer"])

            def step(self, messages):
                guess = re.findall(r"[0-9]+", messages[-1]["content"]) or ["0"]
                if int(guess[-1]) == self.number:
                    return Reply(reward=1.0)
                return "More." if int(guess[-1]) < self.number else "Less."

        env = HostEnvironment(env, Guess, tokenizer, max_turns=4, chat=True)
        ```
    """

    env: AbstractDatasetEnvironment
    host: Any = eqx.field(static=True)
    tokenizer: AbstractTokenizer = eqx.field(static=True)
    max_turns: int = eqx.field(static=True)
    chat: bool = eqx.field(static=True)
    seconds: float = eqx.field(static=True)
    concurrency: int = eqx.field(static=True)

    def __new__(cls, env: AbstractDatasetEnvironment, *_: Any, **__: Any):
        answers = isinstance(env, AbstractAnswerEnvironment)
        return super().__new__(_WithAnswers if answers else cls)  # pyright: ignore

    def __init__(
        self,
        env: AbstractDatasetEnvironment,
        host: Any,
        tokenizer: AbstractTokenizer,
        *,
        max_turns: int = 8,
        chat: bool = True,
        seconds: float = 60.0,
        concurrency: int = 64,
    ):
        self.env, self.host, self.tokenizer = env, host, tokenizer
        self.max_turns, self.chat = max_turns, chat
        self.seconds, self.concurrency, self.stop = seconds, concurrency, None

    def __check_init__(self):
        sizes = {"max_turns": self.max_turns, "concurrency": self.concurrency}
        check_counts("HostEnvironment", 1, **sizes)
        if not self.seconds > 0:
            raise ValueError(
                "`HostEnvironment.seconds` is the time limit of a call, above 0. "
                f"Received {self.seconds}."
            )
        if not isinstance(self.env, AbstractDatasetEnvironment) or self.env.pauses:
            raise ValueError(
                "`HostEnvironment` needs an environment of numbered problems. Received "
                f"{type(self.env).__name__}."
            )
        if self.env.max_turns > 1:
            raise ValueError(
                "`HostEnvironment` replies to the turns of an environment that has one."
                f" Received {type(self.env).__name__} of {self.env.max_turns} turns."
            )
        if self.chat and not self.tokenizer.has_chat_template:
            raise ValueError(
                "`HostEnvironment(chat=True)` renders replies by the tokenizer's chat "
                "template. Received a tokenizer without one: pass chat=False, and "
                "replies are texts, or add a template."
            )
        ready = isinstance(self.host, Tools) or hasattr(self.host, "step")
        if not ready and (isinstance(self.host, type) or not callable(self.host)):
            raise ValueError(
                "A host environment has a method `step`, which answers a conversation. "
                f"Received {self.host!r:.80}, which has none."
            )

    @property
    def pauses(self) -> bool:
        return True

    @property
    def backend(self) -> Callable[..., Trajectory]:
        return drive

    @property
    def settings(self) -> Settings:
        """What all conversations have in common."""
        return Settings(self.host, self.tokenizer, self.chat, self.seconds)

    @property
    def pays(self) -> bool:
        return not isinstance(self.host, Tools)

    def dry_call(self) -> None:
        """Makes and closes the state of problem 0, to find out whether it can be.

        An error that may be due to the row, or to a server that is not there yet, is
        logged as a warning.

        **Raises:** `ValueError` for one that cannot be called.
        """
        if isinstance(self.host, Tools):
            return
        row = {name: values[0] for name, values in (self.rows or {}).items()}
        Episode(self.settings, row, [0]).dry_call()


class _WithAnswers(HostEnvironment, HostAnswers):
    """With the answers of an environment that knows them."""
