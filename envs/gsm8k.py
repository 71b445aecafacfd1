"""GSM8K: grade-school word problems with integer answers, solved in one turn.

    rows = load_rows("openai/gsm8k", split="train").rows
    env = GSM8K(rows, tokenizer, prompt_style="chat", max_completion_length=256)

It is a setting of `envs.questions`, which reads any rows.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from grpojax.text import AbstractTokenizer

from . import questions, rows as sources
from ._prompts import check_choice, tokens_containing as tokens_containing
from ._word_problems import word_problems as word_problems
from .answers import Integer
from .options import (
    GSM8KOptions,
    QuestionsOptions,
    WORD_PROBLEMS as WORD_PROBLEMS,
)
from .questions import PromptFormat, Questions, row_check
from .rows import LoadedRows as LoadedRows


RAW_TEMPLATE = "Question: {question}\nAnswer:"
"""The prompt of a model without a chat template."""


class GSM8K(Questions):
    """Word problems that an integer answers; rewards as those of `Questions`."""

    def __init__(
        self,
        rows: Sequence[Mapping[str, object]],
        tokenizer: AbstractTokenizer,
        *,
        max_completion_length: int,
        prompt_style: str = "raw",
        template: str = RAW_TEMPLATE,
        system_prompt: str | None = None,
        answer_format: str = "####",
        **settings: Any,
    ):
        """Tokenizes every prompt once, on the host.

        **Arguments:** besides those of `Questions`,

        - `prompt_style`: `"raw"` text, or the tokenizer's `"chat"` template.
        - `template`: of a raw prompt, with `{question}` in it.
        - `system_prompt`: instructions in front of every prompt.
        - `answer_format`: the answer is expected as `#### 7`, or in a `"tag"`:
            `<answer>7</answer>`.

        **Raises:** `ValueError` for rows, prompts or sizes that do not fit, named.
        """
        check_choice("answer_format", answer_format, ("####", "tag"))
        check_choice("prompt_style", prompt_style, ("raw", "chat"))
        is_chat = prompt_style == "chat"
        super().__init__(
            rows,
            tokenizer,
            Integer(answer_format),
            PromptFormat(_prompt(template, is_chat), is_chat, system_prompt),
            max_completion_length=max_completion_length,
            **settings,
        )


def load_rows(source: str | os.PathLike[str], **options: Any) -> LoadedRows:
    """The rows of one split whose `question` is a text and whose `answer` an integer.

    **Arguments:**

    - `source`, `options`: see `envs.rows.load_rows`.

    **Returns:** the rows, and how many were skipped.

    **Raises:** as `envs.rows.load_rows`.
    """
    check = row_check(Integer(), PromptFormat())
    return sources.load_rows(source, check=check, **options)


def final_answer(answer: str) -> int:
    """The integer at the end of a worked answer.

    **Arguments:**

    - `answer`: a worked answer that ends in `#### 1,200`, or the number alone.

    **Returns:** the integer.

    **Raises:** `ValueError` for anything but an integer of 32 bits.

    !!! example

        ```python
        final_answer("60 * 20 = 1200 eggs\\n#### 1,200")  # 1200
        ```
    """
    return Integer().read(answer)


def environments(
    data: GSM8KOptions,
    tokenizer: AbstractTokenizer,
    *,
    horizon: int,
    held_out: int | None,
    make: Callable[..., Questions] = Questions,
) -> tuple[Questions, Questions | None, list[str]]:
    """The environments of a recipe with `data.task: gsm8k`; see `envs.questions`.

    Exactly `held_out` rows are held out, of the split `test`; of a file the first. They
    are instances of `make`, which takes the arguments of `Questions`.
    """
    settings = {
        key: value for key, value in vars(data).items() if key != "answer_format"
    }
    is_file = data.eval_path is None and Path(data.path).is_file()
    options = QuestionsOptions(
        **settings,
        prompt=_prompt(RAW_TEMPLATE, data.chat),
        answer=Integer(data.answer_format),
        held_out=held_out,
        eval_split=None if is_file else "test",
    )
    return questions.environments(
        options, tokenizer, horizon=horizon, held_out=held_out, make=make
    )


def _prompt(template: str, is_chat: bool) -> str:
    """A template with `{question}`, and maybe other braces, as one of jinja."""
    if is_chat:
        return "question"
    before, question, after = template.partition("{question}")
    if not question:
        raise ValueError(
            "A prompt template must contain `{question}`. Received "
            f"{template!r}: put it where the question belongs."
        )
    literal = lambda text: "{% raw %}" + text + "{% endraw %}"
    return literal(before) + "{{ question }}" + literal(after)
