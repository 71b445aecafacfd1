"""Questions from rows of data, each answered in one turn.

    rows, _ = load_rows("problems.csv", columns={"question": "text"})
    prompt = PromptFormat("Question: {{ question }}\\nAnswer:")
    env = Questions(rows, tokenizer, Integer(), prompt, max_completion_length=256)

The rewards are `correct` and `format`, both 0 or 1, both computed from the tokens
inside the compiled program.
"""

import functools as ft
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, PyTree

from grpojax.env import AbstractAnswerEnvironment, Rows, TimeStep, Turn
from grpojax.text import (
    AbstractTokenizer,
    Bytes,
    ParsedInteger,
    split_ends,
    to_bytes,
    TokenBytes,
)
from grpojax.types import Prompt

from ._format import PromptFormat as PromptFormat, worked_answer
from ._parts import find_function, make_answer
from ._prompts import check_horizon, end_token_array, pad_prompts
from .answers import AbstractAnswer, Integer, NoAnswer
from .options import QuestionsOptions
from .rows import RowRules, split_rows
from .rows._load import column_of, place_of


# Hardly any tokens are longer, except runs of spaces. Where a completion has more bytes
# per token its beginning is truncated: answers are at the end.
_BYTES_PER_TOKEN = 16


class Questions(AbstractAnswerEnvironment[PyTree[Any]]):
    """Numbered questions, each with the prompt and the answer of a row.

    The state of a conversation is the answer, as its kind stores it. A turn ends with
    an end token, after at most `max_completion_length` tokens. Rewards are those of the
    kind of answers: none with `NoAnswer`, and of most, each 0 or 1,

    - `correct`: the completion's answer is that of the row.
    - `format`: the completion is written as its kind of answers asks.

    **Fields:**

    - `prompts`, `prompt_lengths`: the prompts, right-padded with 0.
    - `answers`: the answers, as `kind.encode` returns them.
    - `kind`: how they are found in a completion, and compared.
    - `token_bytes`: the bytes of every token.
    - `end_tokens`: the tokens that end a turn.
    - `max_completion_length`: the horizon, tokens.
    - `columns`: all columns of the rows, in the order of the problems.
    - `skipped`: how many rows were skipped because their prompts were too long.
    """

    prompts: Int[Array, "problem prefix"]
    prompt_lengths: Int[Array, " problem"]
    answers: PyTree[Any]
    kind: AbstractAnswer
    token_bytes: TokenBytes
    end_tokens: Int[Array, " end"]
    max_completion_length: int = eqx.field(static=True)
    columns: Rows = eqx.field(static=True)
    skipped: int = eqx.field(static=True)

    def __init__(
        self,
        rows: Sequence[Mapping[str, object]],
        tokenizer: AbstractTokenizer,
        answer: AbstractAnswer = Integer(),
        prompt: PromptFormat = PromptFormat(),
        *,
        max_completion_length: int,
        max_prompt_length: int | None = None,
        long_prompts: str = "raise",
        shots: Sequence[Mapping[str, object]] = (),
        end_tokens: Sequence[int | str] = (),
    ):
        """Tokenizes every prompt once, on the host.

        **Arguments:**

        - `rows`: the columns of each problem by name, the answer in `"answer"`; see
            `load_rows`.
        - `tokenizer`: the policy's.
        - `answer`: the kind of answers.
        - `prompt`: how rows become prompts.
        - `max_completion_length`: the horizon, tokens.
        - `max_prompt_length`: the width of the prompts, tokens; that of the longest
            prompt by default.
        - `long_prompts`: whether a longer prompt is an error (`"raise"`) or skipped
            (`"skip"`).
        - `shots`: rows that every prompt shows with their answers. They should not be
            among `rows`.
        - `end_tokens`: tokens that end a turn besides the tokenizer's own: ids, names
            of tokens without text such as `"<|im_end|>"`, and at most one string that
            ends it wherever its tokens begin and end.

        **Raises:** `ValueError` for rows, prompts or sizes that do not fit, named.
        """
        check_horizon(max_completion_length)
        find = getattr(answer, "find", "")
        try:
            examples = [
                (prompt.asked(shot), worked_answer(column_of(shot, "answer"), find))
                for shot in shots
            ]
            prompts = [prompt.encode(tokenizer, row, examples) for row in rows]
            padded = pad_prompts(prompts, max_prompt_length, long_prompts)
            kept = [rows[row] for row in padded.kept]
            gold = answer.encode([row.get("answer") for row in kept])
        except ValueError:
            _refuse_bad([*rows, *shots], answer, prompt)
            raise
        self.prompts = jnp.asarray(padded.tokens)
        self.prompt_lengths = jnp.asarray(padded.lengths)
        self.answers = jax.tree.map(jnp.asarray, gold)
        self.kind = answer
        self.token_bytes = tokenizer.token_bytes
        ends, self.stop = split_ends(tokenizer, end_tokens, max_completion_length)
        self.end_tokens = jnp.asarray(end_token_array(tokenizer, ends))
        self.max_completion_length = max_completion_length
        self.columns = Rows.of(kept)
        self.skipped = len(rows) - len(kept)

    @property
    def vocab_size(self) -> int:
        return self.token_bytes.length.shape[0]

    @property
    def max_prompt_length(self) -> int:
        return self.prompts.shape[1]

    @property
    def max_turns(self) -> int:
        return 1

    @property
    def size(self) -> int:
        return self.prompts.shape[0]

    @property
    def rows(self) -> Rows:
        return self.columns

    def problem(self, index: Int[Array, ""]) -> tuple[PyTree[Any], Prompt]:
        prompt = Prompt(self.prompts[index], self.prompt_lengths[index])
        return jax.tree.map(lambda x: x[index], self.answers), prompt

    def step(self, state: PyTree[Any], turn: Turn) -> tuple[PyTree[Any], TimeStep]:
        answer = TimeStep(
            reply=jnp.zeros(0, jnp.int32),
            reply_length=jnp.zeros((), jnp.int32),
            rewards=self.kind.rewards(self.text(turn), state),
            done=jnp.ones((), bool),
        )
        return state, answer

    def gold(self, state: PyTree[Any]) -> Int[Array, ""]:
        return self.kind.gold_vote(state)

    def answer(self, turn: Turn) -> ParsedInteger:
        return self.kind.vote(self.text(turn))

    def text(self, turn: Turn) -> Bytes:
        """The text of a turn, or its end if it is long."""
        time = turn.tokens.shape[0]
        inside = jnp.arange(time, dtype=jnp.int32) < turn.length
        size = min(self.token_bytes.table.shape[1], _BYTES_PER_TOKEN) * time
        return to_bytes(self.token_bytes, turn.tokens, inside, size=size)


def environments(
    data: QuestionsOptions,
    tokenizer: AbstractTokenizer,
    *,
    horizon: int,
    held_out: int | None,
    make: Callable[..., Questions] = Questions,
) -> tuple[Questions, Questions | None, list[str]]:
    """The environments of a recipe with `data.task: questions`.

    **Arguments:**

    - `data`: the task's options.
    - `tokenizer`: the policy's.
    - `horizon`: the longest completion, tokens.
    - `held_out`: how many problems the evaluation takes; all when `None`.
    - `make`: `Questions`, or a class with the same arguments.

    **Returns:** the environment to train on, the one to evaluate on (`None` for 0
    problems), and how many rows were left out, by the reason.

    **Raises:** `ValueError` or `FileNotFoundError` for rows that do not fit, named.
    """
    kind = make_answer(data.answer)
    prompt = PromptFormat(
        cast(Any, data.prompt), data.chat, data.system_prompt, data.last_reply
    )
    rules = RowRules(
        check=row_check(kind, prompt),
        key=lambda row: json.dumps(prompt.asked(row)),
        keep=find_function("data.filter", data.filter) if data.filter else None,
    )
    train, test, left_out = split_rows(data, held_out, rules)
    make = ft.partial(
        make,
        tokenizer=tokenizer,
        answer=kind,
        prompt=prompt,
        max_completion_length=horizon,
        max_prompt_length=data.max_prompt_length,
        long_prompts=data.long_prompts,
        shots=train[: data.shots],
        end_tokens=() if data.stop is None else (data.stop,),
    )
    both = make(train[data.shots :]), make(test) if test and held_out != 0 else None
    long = sum(env.skipped for env in both if env is not None)
    left_out["with too long a prompt"] = long
    notes = [
        f"{count} {'row' if count == 1 else 'rows'} {reason} left out"
        for reason, count in left_out.items()
        if count > 0
    ]
    return *both, notes


def row_check(
    kind: AbstractAnswer, prompt: PromptFormat
) -> Callable[[Mapping[str, object]], None]:
    """Raises a `ValueError` for a row without a prompt, or an answer of its kind."""
    read = kind.read  # Equinox takes its time to bind a method.

    def check(row: Mapping[str, object]) -> None:
        prompt.asked(row)
        if not isinstance(kind, NoAnswer):
            read(column_of(row, "answer"))

    return check


def _refuse_bad(
    rows: Sequence[Mapping[str, object]], kind: AbstractAnswer, prompt: PromptFormat
) -> None:
    """Raises a `ValueError` that names the first bad row, if there is one."""
    check = row_check(kind, prompt)
    for number, row in enumerate(rows, 1):
        try:
            check(row)
        except ValueError as error:
            raise ValueError(
                f"Every row needs a prompt and an answer. {place_of(row, number)}: "
                f"{error}. Correct it, or leave it out."
            ) from None
