"""A stop string, matched on the text of tokens inside a compiled program."""

import itertools

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, UInt8

from ._token_bytes import TokenBytes


class StopString(eqx.Module):
    """An automaton that reads tokens and knows how much of a string they have spelled.

    Its state is the number of bytes of the string that the text ends in: after any
    tokens, the longest suffix of their text that begins the string. It is absorbing
    when the whole string has occurred, wherever tokens begin and end.

    **Fields:**

    - `transitions`: the state after each token, from each state.
    - `fewest_tokens`: with which a text can contain the string.
    """

    transitions: UInt8[Array, "state vocab"]
    fewest_tokens: int = eqx.field(static=True)

    @property
    def found(self) -> int:
        """The state in which the string has occurred; the first state is 0."""
        return self.transitions.shape[0] - 1

    def __call__(
        self, state: Int[Array, "*batch"], token: Int[Array, "*batch"]
    ) -> Int[Array, "*batch"]:
        """The states after one more token each.

        **Arguments:**

        - `state`: before the tokens; int32.
        - `token`: token ids below the vocabulary's size.
        """
        return self.transitions[state, token].astype(jnp.int32)


def stop_string(token_bytes: TokenBytes, pattern: bytes) -> StopString:
    """The automaton of a string over a vocabulary.

    **Arguments:**

    - `token_bytes`: the bytes of every token.
    - `pattern`: the string.

    **Returns:** the automaton: a byte for each token and byte of the string.

    **Raises:** `ValueError` for an empty string, which every text contains, one of more
    than 255 bytes, and one that no sequence of tokens spells.

    !!! example

        ```python
        stop = stop_string(tokenizer.token_bytes, b"</answer>")
        ```

    Source: Knuth, Morris and Pratt, "Fast pattern matching in strings", 1977.
    """
    if not 1 <= len(pattern) <= 255:
        raise ValueError(
            f"A stop string has between 1 and 255 bytes. Received {pattern!r:.60} of "
            f"{len(pattern)}: every text contains the empty one, so leave it out "
            "instead."
        )
    after = _byte_transitions(pattern)
    table, length = np.asarray(token_bytes.table), np.asarray(token_bytes.length)
    states = np.repeat(np.arange(len(pattern) + 1)[:, None], len(length), axis=1)
    for column in range(table.shape[1]):
        step = after[states, table[:, column]]
        states = np.where(column < length, step, states)
    fewest = _fewest_tokens(states)
    if fewest is None:
        raise ValueError(
            "A stop string is spelled by tokens of the model. Received "
            f"{pattern.decode(errors='replace')!r}, which no sequence of them "
            "contains: choose another one."
        )
    return StopString(jnp.asarray(states.astype(np.uint8)), fewest)


def _byte_transitions(pattern: bytes) -> np.ndarray:
    """The state after each byte, `[state byte]`."""
    size = len(pattern)
    after = np.zeros((size + 1, 256), np.int32)
    after[0, pattern[0]] = 1
    # The state of the text without its first byte: where a mismatch goes on from.
    shifted = 0
    for state in range(1, size):
        after[state] = after[shifted]
        after[state, pattern[state]] = state + 1
        shifted = after[shifted, pattern[state]]
    after[size] = size
    return after


def _fewest_tokens(states: np.ndarray) -> int | None:
    """How many tokens lead from the first state to the last; `None` if none do."""
    reached, known = {0}, {0}
    for count in itertools.count(1):
        known = set(np.unique(states[sorted(known)]).tolist()) - reached
        if states.shape[0] - 1 in known:
            return count
        if not known:
            return None
        reached |= known
