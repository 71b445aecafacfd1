"""What ends a turn: tokens, and a stop string."""

from collections.abc import Sequence

from ._stop import stop_string, StopString
from .tokenizer import AbstractTokenizer


def split_ends(
    tokenizer: AbstractTokenizer, ends: Sequence[int | str | StopString], horizon: int
) -> tuple[list[int], StopString | None]:
    """What ends a turn, as tokens and a stop string.

    **Arguments:**

    - `tokenizer`: the policy's.
    - `ends`: ids, names of tokens without text, and at most one other string, or its
        automaton.
    - `horizon`: tokens of the longest completion.

    **Returns:** the tokens, and the string if there is one.

    **Raises:** `ValueError` for a string that no completion can contain, or a second.

    !!! example

        ```python
        tokens, stop = split_ends(tokenizer, ["<|im_end|>", "</answer>"], 256)
        ```
    """
    tokens, found = [], None
    for end in ends:
        token = tokenizer.token_id(end) if isinstance(end, str) else end
        if isinstance(token, int) and not (
            isinstance(end, str) and tokenizer.token_bytes.join([token])
        ):
            tokens.append(token)
            continue
        if found is not None:
            raise ValueError(
                f"One stop string can end a turn. Received {end!r} besides another: "
                "leave one of them out."
            )
        if isinstance(end, StopString):
            found = end
            continue
        found = stop_string(tokenizer.token_bytes, str(end).encode())
        if found.fewest_tokens > horizon:
            raise ValueError(
                f"A stop string must fit a completion. Received {end!r}, of at least "
                f"{found.fewest_tokens} tokens, and at most {horizon} tokens: raise "
                "`rollout.max_new_tokens`, or choose another string."
            )
    return tokens, found
