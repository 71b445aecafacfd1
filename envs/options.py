"""The options of each task: the keys of a recipe's section `data`.

Neither this module nor what it imports needs JAX, so that a recipe can be checked and
printed without it.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from .games.options import GAMES
from .slates.options import SLATES


WORD_PROBLEMS = "word-problems"
"""The source that needs no file: synthetic problems, generated from a seed."""


@dataclass(frozen=True)
class AdditionOptions:
    """The task `addition` has no options."""


@dataclass(frozen=True)
class GSM8KOptions:
    """Where the task `gsm8k` reads its problems, and how it prompts the model.

    **Fields:**

    - `path`: `"word-problems"` (synthetic), a file, a folder, or the id of a data set
        on the Hugging Face hub such as `"openai/gsm8k"`.
    - `eval_path`: the same for evaluation. When `None`, the test split of `path`, or
        the first rows of a file.
    - `train_rows`: how many rows to train on. When `None`, all of them, or 8,192
        synthetic ones.
    - `bad_rows`: whether a row without a question or an answer is an error or skipped.
    - `long_prompts`: whether a prompt that is too long is an error or skipped.
    - `max_prompt_length`: the width of the prompts, tokens; that of the longest prompt
        when `None`.
    - `chat`: prompt with the tokenizer's chat template instead of plain text.
    - `system_prompt`: instructions in front of every prompt.
    - `shots`: how many training problems every prompt shows with their answers.
    - `answer_format`: the answer is written as `#### 7`, or in a `tag`:
        `<answer>7</answer>`.
    - `stop`: a string that ends a completion, too, wherever its tokens begin and end.

    **Raises:** `ValueError` for a number out of range, by its key in a recipe.
    """

    path: str = "word-problems"
    eval_path: str | None = None
    train_rows: int | None = None
    bad_rows: Literal["raise", "skip"] = "raise"
    long_prompts: Literal["raise", "skip"] = "raise"
    max_prompt_length: int | None = None
    chat: bool = False
    system_prompt: str | None = None
    shots: int = 0
    answer_format: Literal["####", "tag"] = "####"
    stop: str | None = None

    def __post_init__(self):
        _check_at_least(1, train_rows=self.train_rows)
        _check_at_least(1, max_prompt_length=self.max_prompt_length)
        _check_at_least(0, shots=self.shots)
        _check_stop(self.stop)

    @property
    def curriculum(self) -> str:
        """What a recipe asks by default: generated problems have no epochs."""
        return "Uniform" if self.path == WORD_PROBLEMS else "ShuffledEpochs"


@dataclass(frozen=True)
class MixtureOptions:
    """The tasks that `mixture` joins.

    **Fields:**

    - `tasks`: a mapping for each task, of `task`, `name` (by default the task's),
        `weight` (by default 1; how often it is asked, relative to the others),
        `max_new_tokens` and `problems`, how many are held out (by default the
        recipe's, and an equal share of `evaluations.NAME.problems`), and the options
        of the task.

    **Raises:** `ValueError` for a task without a name, or two of one name.
    """

    tasks: object = ()

    def __post_init__(self):
        tasks: Any = self.tasks if isinstance(self.tasks, list | tuple) else [None]
        for number, task in enumerate(tasks):
            if not isinstance(task, Mapping) or not isinstance(task.get("task"), str):
                raise ValueError(
                    "`data.tasks` is a list of mappings, each with the key `task`. "
                    f"Received {task!r:.80} as number {number + 1}."
                )
        names = [name_of(task) for task in tasks]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(
                "`data.tasks` have a name each. Received several of the name "
                f"{', '.join(twice)}: give them `name`."
            )

    @property
    def curriculum(self) -> Mapping[str, object]:
        """What a recipe asks by default: the tasks by their weights."""
        tasks: Any = self.tasks
        weights = {name_of(task): task.get("weight", 1.0) for task in tasks}
        return {"name": "Mixture", "weights": weights or None}


def name_of(task: Mapping[str, object]) -> str:
    """The name of one of the tasks that `mixture` joins."""
    return str(task.get("name", task["task"]))


@dataclass(frozen=True)
class QuestionsOptions:
    """Where the task `questions` reads its rows, and what it asks.

    **Fields:**

    - `path`: a file (`.jsonl`, `.json`, `.csv`, `.tsv`, `.parquet`), a folder with one
        for each split, a folder that `datasets` has saved, the id of a data set on the
        Hugging Face hub, `"word-problems"` (synthetic), or `"reasoning_gym:TASK"`.
    - `configuration`: of a data set on the hub.
    - `split`: the split to train on.
    - `revision`: of a data set on the hub.
    - `columns`: other names of columns, `{question: prompt_text, answer: label}`.
    - `prompt`: a column that holds a text or a list of messages, a jinja template over
        the columns, or a list of messages with such templates.
    - `answer`: the kind of the column `answer`: the name of a class in `envs.answers`,
        a mapping with its `name` and arguments, or `package.module:object`. `NoAnswer`
        for rows without that column.
    - `chat`: prompt with the tokenizer's chat template instead of plain text.
    - `system_prompt`: instructions in front of every prompt.
    - `last_reply`: whether a conversation that ends with a message of the assistant is
        an error, or that message, which a warm start may learn, is left out.
    - `shots`: how many training rows every prompt shows with their answers.
    - `stop`: a string that ends a completion, too, wherever its tokens begin and end.
    - `filter`: `package.module:function` of a row, which says whether it is used.
    - `duplicates`: whether a row with the prompt of an earlier one is kept or skipped.
    - `bad_rows`: whether a row without a prompt or an answer is an error or skipped.
    - `long_prompts`: whether a prompt that is too long is an error or skipped.
    - `max_prompt_length`: the width of the prompts, tokens; that of the longest prompt
        when `None`.
    - `shuffle`: whether rows are shuffled before some are held out; an integer is the
        seed, and `True` means 0.
    - `train_rows`: how many rows to train on. When `None`, all of them, or 8,192
        synthetic ones.
    - `held_out`: how many rows to evaluate on, or which share of the rows. When `None`,
        the first `evaluations.held_out.problems` of the split `test`; without one a
        tenth of the rows, and at most that many.
    - `eval_path`, `eval_split`: a source, and a split, of which all rows or `held_out`
        are those to evaluate on.

    **Raises:** `ValueError` for a value out of range, by its key in a recipe.
    """

    path: str = "word-problems"
    configuration: str | None = None
    split: str = "train"
    revision: str | None = None
    columns: object = field(default_factory=dict, hash=False)
    prompt: object = field(default="question", hash=False)
    answer: object = field(default="Integer", hash=False)
    chat: bool = False
    system_prompt: str | None = None
    last_reply: Literal["raise", "drop"] = "raise"
    shots: int = 0
    stop: str | None = None
    filter: str | None = None
    duplicates: Literal["keep", "skip"] = "keep"
    bad_rows: Literal["raise", "skip"] = "raise"
    long_prompts: Literal["raise", "skip"] = "raise"
    max_prompt_length: int | None = None
    shuffle: bool | int = False
    train_rows: int | None = None
    held_out: int | float | None = None
    eval_path: str | None = None
    eval_split: str | None = None

    def __post_init__(self):
        _check_at_least(1, train_rows=self.train_rows)
        _check_at_least(1, max_prompt_length=self.max_prompt_length)
        _check_at_least(0, shots=self.shots, held_out=self.held_out)
        _check_stop(self.stop)
        columns = self.columns
        texts = isinstance(columns, dict) and {*columns, *columns.values()}
        if texts is False or not all(isinstance(x, str) for x in texts):
            raise ValueError(
                "`data.columns` gives columns other names, "
                f"{{question: prompt_text}}. Received {columns!r}."
            )
        messages = self.prompt if isinstance(self.prompt, list | tuple) else [None]
        if not isinstance(self.prompt, str) and not all(map(_is_message, messages)):
            raise ValueError(
                "`data.prompt` is a column, a template, or a list of messages such as "
                f"{{role: user, content: '{{{{ question }}}}'}}. Received "
                f"{self.prompt!r}."
            )
        if isinstance(self.held_out, float):
            apart = self.eval_path is not None or self.eval_split is not None
            if not 0 < self.held_out < 1 or apart:
                raise ValueError(
                    "`data.held_out` is a number of rows, or a share between 0 and 1 "
                    f"of those to train on. Received {self.held_out}"
                    + (" besides `data.eval_path` or `data.eval_split`." * apart or ".")
                )
        if self.filter is not None and ":" not in self.filter:
            raise ValueError(
                "`data.filter` is a function of a row, `package.module:function`. "
                f"Received {self.filter!r}."
            )

    @property
    def curriculum(self) -> str:
        """What a recipe asks by default: generated problems have no epochs."""
        return "Uniform" if self.path == WORD_PROBLEMS else "ShuffledEpochs"


def _is_message(value: object) -> bool:
    return (
        isinstance(value, dict)
        and value.keys() == {"role", "content"}
        and all(isinstance(x, str) for x in value.values())
    )


OPTIONS = {
    "addition": AdditionOptions,
    "gsm8k": GSM8KOptions,
    "mixture": MixtureOptions,
    "questions": QuestionsOptions,
    **GAMES,
    **SLATES,
}
"""The options of each task that a recipe can name without a module."""


def _check_at_least(minimum: int, **values: int | float | None) -> None:
    for key, value in values.items():
        if value is not None and value < minimum:
            raise ValueError(
                f"`data.{key}` must be at least {minimum}. Received {value}."
            )


def _check_stop(stop: str | None) -> None:
    if stop == "":
        raise ValueError(
            "`data.stop` must have a character: every text contains the empty one. "
            "Received '': leave it null."
        )
    # A shell hands over a backslash and a letter; `\\nabla` and `\\right` are texts.
    if stop is not None and re.search(r"\\[nrt](?![a-z])", stop):
        raise ValueError(
            "`data.stop` is matched as it is. Received "
            f"{stop!r}, in which a backslash and a letter are two characters: for a "
            "newline write it in double quotes of YAML, as in "
            """--set 'data.stop="\\n"'."""
        )
