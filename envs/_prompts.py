"""Prompts as arrays of tokens, on the host."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from grpojax.text import AbstractTokenizer, TokenBytes


class PaddedPrompts(NamedTuple):
    """Prompts, right-padded to one width.

    **Fields:**

    - `tokens`: token ids, 0 past each length; int32.
    - `lengths`: tokens of each prompt; int32.
    - `kept`: the indices of these prompts; the others were too long.
    """

    tokens: Int[np.ndarray, "problem prefix"]
    lengths: Int[np.ndarray, " problem"]
    kept: list[int]


def pad_prompts(
    prompts: Sequence[Sequence[int]],
    max_prompt_length: int | None = None,
    long_prompts: str = "raise",
) -> PaddedPrompts:
    """Right-pads prompts to one width.

    **Arguments:**

    - `prompts`: token ids of each.
    - `max_prompt_length`: the width, tokens; that of the longest prompt by default.
    - `long_prompts`: whether a longer prompt is an error (`"raise"`) or skipped
        (`"skip"`).

    **Returns:** the padded prompts.

    **Raises:** `ValueError` for a prompt that is too long or empty, named by its row,
    or if all are skipped.
    """
    check_choice("long_prompts", long_prompts, ("raise", "skip"))
    longest = max(map(len, prompts), default=0)
    width = longest if max_prompt_length is None else max_prompt_length
    kept = []
    for row, prompt in enumerate(prompts):
        if not prompt:
            raise ValueError(
                f"A prompt needs at least one token. That of row {row + 1} has none: "
                "check its question and the template."
            )
        if len(prompt) <= width:
            kept.append(row)
        elif long_prompts == "raise":
            raise ValueError(
                f"A prompt must fit max_prompt_length={width} tokens. That of row "
                f"{row + 1} has {len(prompt)}, and the longest has {longest}. Raise "
                "max_prompt_length, or skip such rows with long_prompts='skip'."
            )
    if not kept:
        raise ValueError(
            "An environment needs at least one problem. Received "
            f"{len(prompts)} rows, of which none has a prompt of at most {width} "
            "tokens. Pass more rows, or raise max_prompt_length."
        )
    tokens = np.zeros((len(kept), width), np.int32)
    for problem, row in enumerate(kept):
        tokens[problem, : len(prompts[row])] = prompts[row]
    lengths = np.array([len(prompts[row]) for row in kept], np.int32)
    return PaddedPrompts(tokens, lengths, kept)


def end_token_array(
    tokenizer: AbstractTokenizer, extra: Sequence[int]
) -> Int[np.ndarray, " end"]:
    """The union of the tokenizer's end tokens and further ones, sorted.

    **Raises:** `ValueError` if it is empty, or has a token outside the vocabulary.
    """
    tokens = sorted({*tokenizer.end_tokens, *extra})
    if not tokens or tokens[0] < 0 or tokens[-1] >= tokenizer.vocab_size:
        raise ValueError(
            "A turn needs tokens that end it, all of them at least 0 and below the "
            f"vocabulary's {tokenizer.vocab_size}. Received {tokens}. Pass "
            "`end_tokens`, or name an `eos_token` in the tokenizer's configuration."
        )
    return np.array(tokens, np.int32)


def tokens_containing(token_bytes: TokenBytes, pattern: bytes) -> tuple[int, ...]:
    """All tokens whose bytes contain a pattern, in order of id.

    A string of one byte is always in one token; for others there is `stop_string`.

    !!! example

        ```python
        tokens_containing(byte_table([b"4", b".\\n", b"\\n"]), b"\\n")  # (1, 2)
        ```
    """
    table, lengths = np.asarray(token_bytes.table), np.asarray(token_bytes.length)
    return tuple(
        token
        for token, length in enumerate(lengths)
        if pattern in table[token, :length].tobytes()
    )


def check_choice(name: str, value: str, choices: Sequence[str]) -> None:
    """Raises a `ValueError` unless a value is one of its choices."""
    if value not in choices:
        known = " or ".join(map(repr, choices))
        raise ValueError(f"`{name}` must be {known}. Received {value!r}.")


def check_horizon(max_completion_length: int) -> None:
    """Raises a `ValueError` for a horizon without tokens."""
    if max_completion_length < 1:
        raise ValueError(
            "`max_completion_length` must be at least 1. Received "
            f"{max_completion_length}."
        )
