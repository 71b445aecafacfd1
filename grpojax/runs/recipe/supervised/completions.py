"""The completions of rows, as tokens."""

import functools as ft
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import jinja2
import jinja2.sandbox
import numpy as np

from ...._train import Demonstrations
from ....env import AbstractDatasetEnvironment
from ....text import AbstractTokenizer
from ..operation import Warmup


_TURN = "7"  # In place of the assistant's turn: no template changes it.


def demonstrations(
    settings: Warmup,
    env: AbstractDatasetEnvironment,
    tokenizer: AbstractTokenizer,
    *,
    chat: bool,
) -> tuple[Demonstrations, int]:
    """The prompts of an environment, with the completions of its rows.

    **Arguments:**

    - `settings`: which completions, and how long they may be.
    - `env`: makes the prompts, as it does for rollouts.
    - `tokenizer`: the policy's.
    - `chat`: whether prompts are rendered by the chat template: a completion then ends
        as a turn of it.

    **Returns:** the demonstrations, and how many rows were too long and skipped.

    **Raises:** `ValueError` for rows without a completion, or one that is too long.
    """
    texts = _texts(settings.completion or "answer", env)
    end = _end_of_turn(tokenizer) if chat else tokenizer.end_tokens[:1]
    if not end:
        raise ValueError(
            "A completion ends with a token that says so. Received a tokenizer without "
            "one: name an `eos_token` in its configuration."
        )
    completions = [[*tokenizer.encode(text), *end] for text in texts]
    longest = max(map(len, completions), default=0)
    most = longest if settings.max_tokens is None else settings.max_tokens
    kept = [i for i, tokens in enumerate(completions) if len(tokens) <= most]
    skipped = len(completions) - len(kept)
    if not kept or (skipped and settings.long_completions == "raise"):
        raise ValueError(
            f"Completions have at most `warmup.max_tokens: {most}` tokens. Received "
            f"{skipped} of {len(completions)} that are longer, the longest of "
            f"{longest}: raise it, or skip them with `warmup.long_completions: skip`."
        )
    tokens, lengths = _prompts(env, np.array(kept, np.int32))
    prompts = [row[:n].tolist() for row, n in zip(tokens, lengths, strict=True)]
    return Demonstrations.of(prompts, [completions[i] for i in kept]), skipped


def check_completion(completion: str | None) -> None:
    """Raises a `ValueError` for a template that cannot be compiled."""
    if completion is not None and _is_template(completion):
        _compile(completion)


def _prompts(env: AbstractDatasetEnvironment, index: np.ndarray):
    """Tokens and lengths of the prompts of some problems, on the host."""

    @jax.jit
    def every(index):
        prompt = jax.vmap(lambda i: env.problem(i)[1])(index)
        return prompt.tokens, prompt.length

    return jax.device_get(every(jnp.asarray(index)))


def _texts(completion: str, env: AbstractDatasetEnvironment) -> list[str]:
    rows = env.rows
    if rows is None or rows.size != env.size:
        raise ValueError(
            "A warm start learns completions that are columns of the task's rows. "
            f"Received {type(env).__name__}, which has none: choose a task of rows, "
            "such as `data.task: questions`."
        )
    each = ({name: rows[name][i] for name in rows} for i in range(rows.size))
    return [_text(completion, row, i) for i, row in enumerate(each, 1)]


def _text(completion: str, row: Mapping[str, Any], number: int) -> str:
    """A row's completion: a template, a text, or the last turn of messages."""
    if _is_template(completion):
        try:
            return _compile(completion).render(row)
        except Exception as error:  # Whatever the template computes.
            raise ValueError(
                f"`warmup.completion` cannot be rendered for row {number}: "
                f"{error!r:.200}; there are {', '.join(map(repr, row))}."
            ) from None
    value = row.get(completion)
    if isinstance(value, list | tuple) and value:
        last: Any = value[-1]
        if isinstance(last, Mapping):
            is_said = last.get("role") == "assistant"
            value = last.get("content") if is_said else None
        else:
            value = last if len(value) == 1 else None
    if not isinstance(value, str):
        raise ValueError(
            "`warmup.completion` is a column of texts, or of messages of which the "
            f"last is the assistant's. Row {number} has {row.get(completion)!r:.80} in "
            f"{completion!r}; there are {', '.join(map(repr, row))}: name another "
            "column, or a template such as '{{ answer }}'."
        )
    return value


def _end_of_turn(tokenizer: AbstractTokenizer) -> Sequence[int]:
    """The token with which the chat template ends a turn of the assistant."""
    asked = [{"role": "user", "content": _TURN}]
    turn = {"role": "assistant", "content": _TURN}
    start = tokenizer.chat_text(asked)
    whole = tokenizer.chat_text([*asked, turn], add_generation_prompt=False)
    rest = whole.removeprefix(start).lstrip().removeprefix(_TURN)
    if whole.startswith(start):
        found = [x for x in tokenizer.encode(rest) if x in tokenizer.end_tokens]
        if found:
            return found[:1]
    return tokenizer.end_tokens[:1]


def _is_template(completion: str) -> bool:
    return "{{" in completion or "{%" in completion


@ft.lru_cache(maxsize=16)
def _compile(template: str) -> jinja2.Template:
    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
        undefined=jinja2.StrictUndefined, keep_trailing_newline=True
    )
    try:
        return environment.from_string(template)
    except jinja2.TemplateError as error:
        raise ValueError(
            "`warmup.completion` with {{ }} must be a jinja template. Received "
            f"{template!r}: {error}."
        ) from None
