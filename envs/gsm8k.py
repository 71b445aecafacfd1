"""GSM8K: grade-school word problems with integer answers, solved in one turn.

    rows = load_rows("openai/gsm8k", split="train").rows
    env = GSM8K(rows, tokenizer, prompt_style="chat", max_completion_length=256)

The rewards are `correct` and `format`, both 0 or 1, both read off the tokens inside the
compiled program.
"""

import functools as ft
from collections.abc import Mapping, Sequence

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Int

from grpojax.env import AbstractAnswerEnvironment, TimeStep, Turn
from grpojax.text import (
    AbstractTokenizer,
    Bytes,
    Number,
    number_after,
    number_in_tag,
    tags_in_order,
    TokenBytes,
)
from grpojax.types import Prompt

from ._choice import check_choice
from ._prompts import (
    chat_messages,
    end_token_array,
    pad_prompts,
    raw_prompt as raw_prompt,
    RAW_TEMPLATE as RAW_TEMPLATE,
    tokens_containing as tokens_containing,
    worked_answer,
)
from ._single_turn import last_step, text_of
from ._sources import (
    final_answer as final_answer,
    load_rows as load_rows,
    Rows as Rows,
    WORD_PROBLEMS as WORD_PROBLEMS,
)
from ._splits import load_split as load_split, Questions, Split as Split
from ._word_problems import word_problems as word_problems


class GSM8K(AbstractAnswerEnvironment[Int[Array, ""]]):
    """Word problems of which the policy must find the number that answers them.

    Actions: what the policy says until an end token, at most `max_completion_length`
    tokens. Rewards, each 0 or 1:

    - `correct`: the integer in the completion equals the answer.
    - `format`: the completion holds a well-formed answer: an integer after its last
        `####`, or, with tags, exactly one `<answer>` and one `</answer>` with an
        integer between them.

    The conversation is over after one turn. The state is the answer.

    **Fields:**

    - `prompts`, `prompt_lengths`: the prompts, right-padded with 0.
    - `answers`: the integers that answer them.
    - `token_bytes`: the bytes of every token.
    - `end_tokens`: the tokens that end a turn.
    - `max_completion_length`, `answer_format`: as they were given.
    - `skipped`: how many rows were left out because their prompts were too long.
    """

    prompts: Int[Array, "problem prefix"]
    prompt_lengths: Int[Array, " problem"]
    answers: Int[Array, " problem"]
    token_bytes: TokenBytes
    end_tokens: Int[Array, " end"]
    max_completion_length: int = eqx.field(static=True)
    answer_format: str = eqx.field(static=True)
    skipped: int = eqx.field(static=True)

    def __init__(
        self,
        rows: Sequence[Mapping[str, str]],
        tokenizer: AbstractTokenizer,
        *,
        max_completion_length: int,
        max_prompt_length: int | None = None,
        long_prompts: str = "raise",
        prompt_style: str = "raw",
        template: str = RAW_TEMPLATE,
        system_prompt: str | None = None,
        shots: Sequence[Mapping[str, str]] = (),
        answer_format: str = "####",
        end_tokens: Sequence[int] = (),
    ):
        """Tokenizes every prompt once, on the host.

        **Arguments:**

        - `rows`: the problems, in GSM8K's form (see `load_rows`).
        - `tokenizer`: the policy's.
        - `max_completion_length`: the horizon in tokens.
        - `max_prompt_length`: the width of the prompts; the longest one's by default.
        - `long_prompts`: whether a longer prompt is an error or is left out.
        - `prompt_style`: `"raw"` text, or the tokenizer's `"chat"` template.
        - `template`: how raw text puts a question.
        - `system_prompt`: what is said before everything else.
        - `shots`: rows that are shown with their worked answers, before each question.
            They should not be among `rows`.
        - `answer_format`: the answer is expected as `#### 7`, or in a `"tag"`:
            `<answer>7</answer>`.
        - `end_tokens`: tokens that end a turn besides the tokenizer's own.

        **Raises:** `ValueError` for rows, prompts or sizes that do not fit, named.
        """
        if max_completion_length < 1:
            raise ValueError(
                "`max_completion_length` must be at least 1. Received "
                f"{max_completion_length}."
            )
        check_choice("answer_format", answer_format, ("####", "tag"))
        check_choice("prompt_style", prompt_style, ("raw", "chat"))
        shown = [
            (shot["question"], worked_answer(shot["answer"], answer_format))
            for shot in shots
        ]

        def prompt(question: str) -> list[int]:
            if prompt_style == "chat":
                return tokenizer.chat(chat_messages(question, shown, system_prompt))
            text = raw_prompt(question, shown, system_prompt, template)
            return tokenizer.encode(text)

        answers = [_answer_of(row, number) for number, row in enumerate(rows, 1)]
        padded = pad_prompts(
            [prompt(row["question"]) for row in rows], max_prompt_length, long_prompts
        )
        self.prompts = jnp.asarray(padded.tokens)
        self.prompt_lengths = jnp.asarray(padded.lengths)
        self.answers = jnp.array([answers[row] for row in padded.kept], jnp.int32)
        self.token_bytes = tokenizer.token_bytes
        self.end_tokens = jnp.asarray(end_token_array(tokenizer, end_tokens))
        self.max_completion_length = max_completion_length
        self.answer_format = answer_format
        self.skipped = len(rows) - len(padded.kept)

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

    def problem(self, index: Int[Array, ""]) -> tuple[Int[Array, ""], Prompt]:
        prompt = Prompt(self.prompts[index], self.prompt_lengths[index])
        return self.answers[index], prompt

    def step(
        self, state: Int[Array, ""], turn: Turn
    ) -> tuple[Int[Array, ""], TimeStep]:
        text = text_of(self.token_bytes, turn)
        number = self._number(text)
        formatted = number.valid
        if self.answer_format == "tag":
            formatted = formatted & tags_in_order(text, (b"answer",))
        correct = number.valid & (number.value == state)
        return state, last_step(correct=correct, format=formatted)

    def gold(self, state: Int[Array, ""]) -> Int[Array, ""]:
        return state

    def answer(self, turn: Turn) -> Number:
        return self._number(text_of(self.token_bytes, turn))

    def _number(self, text: Bytes) -> Number:
        return (
            number_in_tag(text) if self.answer_format == "tag" else number_after(text)
        )


def environments(
    data: Questions,
    tokenizer: AbstractTokenizer,
    *,
    horizon: int,
    held_out: int | None,
) -> tuple[GSM8K, GSM8K | None, list[str]]:
    """What a recipe with `data.task: gsm8k` trains on and is judged on.

    **Arguments:**

    - `data`: the recipe's section of that name.
    - `tokenizer`: the policy's.
    - `horizon`: the longest completion, in tokens.
    - `held_out`: how many problems to hold out; all that there are when `None`.

    **Returns:** the environment to train on, the one that is held out (`None` if
    nothing is), and remarks for whoever reads along.
    """
    split = load_split(data, held_out)
    shots, train = split.train[: data.shots], split.train[data.shots :]
    ends = ()
    if data.stop is not None:
        ends = tokens_containing(tokenizer.token_bytes, data.stop.encode())
    make = ft.partial(
        GSM8K,
        tokenizer=tokenizer,
        max_completion_length=horizon,
        max_prompt_length=data.max_prompt_length,
        long_prompts=data.long_prompts,
        prompt_style="chat" if data.chat else "raw",
        system_prompt=data.system_prompt,
        shots=shots,
        answer_format=data.answer_format,
        end_tokens=ends,
    )
    made = make(train), make(split.held_out) if split.held_out else None
    long = sum(env.skipped for env in made if env is not None)
    notes = [f"{split.skipped} rows without an answer left out"] * (split.skipped > 0)
    notes += [f"{long} rows with too long a prompt left out"] * (long > 0)
    return *made, notes


def _answer_of(row: Mapping[str, str], number: int) -> int:
    missing = [name for name in ("question", "answer") if name not in row]
    if missing:
        raise ValueError(
            "Every row needs a `question` and an `answer`. Received row "
            f"{number} with {sorted(row)}."
        )
    try:
        return final_answer(row["answer"])
    except ValueError as error:
        raise ValueError(
            "Every row needs an `answer` that ends in `#### n`. "
            f"Row {number}: {error}. Correct it, or leave such rows out with "
            "`load_rows(bad_rows='skip')`."
        ) from None
