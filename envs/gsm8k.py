"""GSM8K: grade-school word problems with integer answers, solved in one turn.

    rows = load_rows("openai/gsm8k", split="train").rows
    env = GSM8K(rows, tokenizer, prompt_style="chat", max_completion_length=256)

The rewards are `correct` and `format`, both 0 or 1, both computed from the tokens
inside the compiled program.
"""

import functools as ft
from collections.abc import Mapping, Sequence

import equinox as eqx
import jax.numpy as jnp

from grpojax.text import AbstractTokenizer

from ._prompts import (
    chat_messages,
    check_choice,
    end_token_array,
    pad_prompts,
    raw_prompt as raw_prompt,
    RAW_TEMPLATE as RAW_TEMPLATE,
    split_ends,
    tokens_containing as tokens_containing,
    worked_answer,
)
from ._question_answer import AbstractQuestionAnswer, check_horizon
from ._sources import (
    final_answer as final_answer,
    load_rows as load_rows,
    LoadedRows as LoadedRows,
    WORD_PROBLEMS as WORD_PROBLEMS,
)
from ._splits import load_split as load_split, Split as Split
from ._word_problems import word_problems as word_problems
from .answers import Integer
from .options import GSM8KOptions


class GSM8K(AbstractQuestionAnswer):
    """Word problems that an integer answers.

    A turn ends with an end token, after at most `max_completion_length` tokens.
    Rewards, each 0 or 1:

    - `correct`: the integer in the completion equals the answer.
    - `format`: the completion is well-formed: an integer after its last `####`, or,
        with tags, exactly one `<answer>` and one `</answer>` with an integer between
        them.

    **Fields:** besides those of `AbstractQuestionAnswer`,

    - `answer_format`: `"####"` or `"tag"`.
    - `skipped`: how many rows were skipped because their prompts were too long.
    """

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
        end_tokens: Sequence[int | str] = (),
    ):
        """Tokenizes every prompt once, on the host.

        **Arguments:**

        - `rows`: the problems, in GSM8K's form (see `load_rows`).
        - `tokenizer`: the policy's.
        - `max_completion_length`: the horizon, tokens.
        - `max_prompt_length`: the width of the prompts, tokens; that of the longest
            prompt by default.
        - `long_prompts`: whether a longer prompt is an error (`"raise"`) or skipped
            (`"skip"`).
        - `prompt_style`: `"raw"` text, or the tokenizer's `"chat"` template.
        - `template`: of a raw prompt, with `{question}` in it.
        - `system_prompt`: instructions in front of every prompt.
        - `shots`: rows that every prompt shows with their worked answers. They should
            not be among `rows`.
        - `answer_format`: the answer is expected as `#### 7`, or in a `"tag"`:
            `<answer>7</answer>`.
        - `end_tokens`: tokens that end a turn besides the tokenizer's own: ids, names
            of tokens without text such as `"<|im_end|>"`, and at most one string that
            ends it wherever its tokens begin and end.

        **Raises:** `ValueError` for rows, prompts or sizes that do not fit, named.
        """
        check_horizon(max_completion_length)
        check_choice("answer_format", answer_format, ("####", "tag"))
        check_choice("prompt_style", prompt_style, ("raw", "chat"))
        examples = [
            (shot["question"], worked_answer(shot["answer"], answer_format))
            for shot in shots
        ]

        def prompt(question: str) -> list[int]:
            if prompt_style == "chat":
                return tokenizer.chat(chat_messages(question, examples, system_prompt))
            text = raw_prompt(question, examples, system_prompt, template)
            return tokenizer.encode(text)

        answers = [_answer_of(row, number) for number, row in enumerate(rows, 1)]
        padded = pad_prompts(
            [prompt(row["question"]) for row in rows], max_prompt_length, long_prompts
        )
        self.prompts = jnp.asarray(padded.tokens)
        self.prompt_lengths = jnp.asarray(padded.lengths)
        self.answers = jnp.array([answers[row] for row in padded.kept], jnp.int32)
        self.token_bytes = tokenizer.token_bytes
        ends, self.stop = split_ends(tokenizer, end_tokens, max_completion_length)
        self.end_tokens = jnp.asarray(end_token_array(tokenizer, ends))
        self.max_completion_length = max_completion_length
        self.answer_format = answer_format
        self.skipped = len(rows) - len(padded.kept)

    @property
    def kind(self) -> Integer:
        return Integer(self.answer_format)


def environments(
    data: GSM8KOptions,
    tokenizer: AbstractTokenizer,
    *,
    horizon: int,
    held_out: int | None,
) -> tuple[GSM8K, GSM8K | None, list[str]]:
    """The environments of a recipe with `data.task: gsm8k`.

    **Arguments:**

    - `data`: the task's options.
    - `tokenizer`: the policy's.
    - `horizon`: the longest completion, tokens.
    - `held_out`: how many problems to hold out; the whole test split when `None`.

    **Returns:** the environment to train on, the one to evaluate on (`None` for 0
    problems), and messages about skipped rows.

    **Raises:** `ValueError` or `FileNotFoundError` for rows that do not fit; see
    `load_rows` and `GSM8K`.
    """
    split = load_split(data, held_out)
    shots, train = split.train[: data.shots], split.train[data.shots :]
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
        end_tokens=() if data.stop is None else (data.stop,),
    )
    both = make(train), make(split.held_out) if split.held_out else None
    long = sum(env.skipped for env in both if env is not None)
    messages = []
    if split.skipped > 0:
        messages.append(f"{split.skipped} rows without an answer left out")
    if long > 0:
        messages.append(f"{long} rows with too long a prompt left out")
    return *both, messages


def _answer_of(row: Mapping[str, str], number: int) -> int:
    missing = [name for name in ("question", "answer") if name not in row]
    if missing:
        raise ValueError(
            "Every row needs a `question` and an `answer`. Received row "
            f"{number} with {sorted(row)}: rename its columns."
        )
    try:
        return final_answer(row["answer"])
    except ValueError as error:
        raise ValueError(
            "Every row needs an `answer` that ends in `#### n`. "
            f"Row {number}: {error}. Correct it, or skip such rows with "
            "`load_rows(bad_rows='skip')`."
        ) from None
