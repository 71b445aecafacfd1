"""Word problems with a calculator that is called inside a turn, as GSM8K writes it.

    Half of 48 is <<48/2=24>>24 clips.
                         ^^^^ written by the environment

When the policy writes `<<expression=`, the result and `>>` are forced, and it goes on.
"""

import functools as ft
from collections.abc import Mapping, Sequence
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int, PyTree

from grpojax.env import TimeStep, Turn
from grpojax.text import (
    AbstractTokenizer,
    Bytes,
    StopString,
    text_reply_tokens,
    TokenBytes,
)
from grpojax.types import Prompt

from .. import gsm8k
from ..options import GSM8KOptions
from ..questions import Questions
from .options import CalculatorOptions
from .toolkit import evaluate, Fraction, last, positions, TEXT_SIZE


_CHARS = "0123456789-.?>"
_WIDTH = 15  # A sign, nine digits, a point, two digits and `>>`.


class CalculatorState(eqx.Module):
    """The answer of the problem, and whether the conversation is over."""

    answer: PyTree
    over: Bool[Array, ""]


class Calculator(Questions):
    """Questions whose answers may call a calculator.

    A call ends a turn, and its result is the reply: rounded to two digits after the
    point, or `?` where the expression has no value. The rest of the completion is the
    last turn, in which the answer is. Rewards besides those of `Questions`:

    - `calls`: 1 for each call with a result.

    **Fields:** besides those of `Questions`,

    - `chars`: the tokens of the characters that a result is made of.
    """

    chars: Int[Array, " char"]
    calls: int = eqx.field(static=True)

    def __init__(
        self,
        rows: Sequence[Mapping[str, object]],
        tokenizer: AbstractTokenizer,
        *arguments: Any,
        calls: int = 8,
        **settings: Any,
    ):
        """**Arguments:** besides those of `Questions`,

        - `calls`: how often a completion may call the calculator.

        **Raises:** `ValueError` as `Questions`, or for a tokenizer without tokens for
        single digits.
        """
        super().__init__(rows, tokenizer, *arguments, **settings)
        found = [text_reply_tokens(tokenizer, [x], before="=")[0] for x in _CHARS]
        wrong = [
            char
            for char, tokens in zip(_CHARS, found, strict=True)
            if len(tokens) != 1 or tokenizer.token_bytes.join(tokens) != char.encode()
        ]
        if wrong:
            raise ValueError(
                "A calculator needs a token for each character of a result. Received a "
                f"tokenizer without one for {wrong}: take another task or model."
            )
        self.chars = jnp.asarray(np.ravel(found), jnp.int32)
        self.stop = call_automaton(tokenizer.token_bytes)
        self.calls = calls

    @property
    def max_turns(self) -> int:
        return self.calls + 1

    def problem(self, index: Int[Array, ""]) -> tuple[CalculatorState, Prompt]:
        answer, prompt = super().problem(index)
        return CalculatorState(answer, jnp.zeros((), bool)), prompt

    def step(
        self, state: CalculatorState, turn: Turn
    ) -> tuple[CalculatorState, TimeStep]:
        _, answered = super().step(state.answer, turn)
        called = self._is_call(turn)
        result, valid = _result(self._end(turn))
        tokens, length = _packed(self.chars, result)
        pays = lambda reward, when: jnp.where(when & ~state.over, reward, 0)
        paid = {name: pays(x, ~called) for name, x in answered.rewards.items()}
        paid["calls"] = pays(jnp.ones((), jnp.float32), called & valid)
        over = state.over | ~called
        answer = TimeStep(tokens, length, paid, over)
        return CalculatorState(state.answer, over), answer

    def gold(self, state: CalculatorState) -> Int[Array, ""]:
        return super().gold(state.answer)

    def _is_call(self, turn: Turn) -> Bool[Array, ""]:
        """Whether a turn ended with `<<expression=`, and with no end token."""
        token = turn.tokens[jnp.maximum(turn.length - 1, 0)]
        byte = self.token_bytes.length[token] - 1
        char = self.token_bytes.table[token, jnp.maximum(byte, 0)]
        is_end = jnp.any(token == self.end_tokens)
        return turn.ended & (turn.length > 0) & ~is_end & (char == ord("="))

    def _end(self, turn: Turn) -> Bytes:
        text = self.text(turn)
        begin = jnp.maximum(text.length - TEXT_SIZE, 0)
        place = begin + jnp.arange(TEXT_SIZE, dtype=jnp.int32)
        data = text.data.at[place].get(mode="fill", fill_value=0)
        return Bytes(data, text.length - begin)


def call_automaton(token_bytes: TokenBytes) -> StopString:
    """What ends a turn: a token that ends in the `=` of `<<expression=`.

    An expression has no `<`, `>`, `=` or newline in it. A token in which something
    follows the `=` calls nothing: the policy has written the result itself.

    **Arguments:**

    - `token_bytes`: the bytes of every token.
    """
    outside, opening, opened, inside, called = range(5)
    after = np.full((5, 256), outside)
    after[[opened, inside]] = inside
    after[[opened, inside], ord("=")] = called
    for end in b"\n>":
        after[[opened, inside], end] = outside
    after[:, ord("<")] = opening
    after[[opening, opened], ord("<")] = opened
    table, length = np.asarray(token_bytes.table), np.asarray(token_bytes.length)
    states = np.repeat(np.arange(5)[:, None], len(length), axis=1)
    for column in range(table.shape[1]):
        step = after[states, table[:, column]]
        states = np.where(column < length, step, states)
    states[called] = called
    return StopString(jnp.asarray(states.astype(np.uint8)), 1)


def _result(text: Bytes) -> tuple[Fraction, Bool[Array, ""]]:
    """The value of the expression between the last `<<` and the end of a text."""
    place, data = positions(text), text.data
    inside = place < text.length
    begin = last((data == ord("<")) & inside) + 1
    found = evaluate(data, begin, text.length - 1, jnp.zeros(0, jnp.int32))
    under = jnp.where(found.valid, found.value.under, 0)
    return Fraction(found.value.over, under), found.valid


def _packed(
    chars: Int[Array, " char"], value: Fraction
) -> tuple[Int[Array, " width"], Int[Array, ""]]:
    """The tokens of a value and `>>`; of `?` for a value with the denominator 0."""
    valid, under = value.under > 0, jnp.maximum(value.under, 1)
    size = jnp.abs(value.over)
    whole, rest = size // under, size % under
    # Denominators are below 10**8, so that ten times a rest fits 32 bits.
    tenth, rest = rest * 10 // under, rest * 10 % under
    hundredth, rest = rest * 10 // under, rest * 10 % under
    rounds_up = (rest * 2 >= under).astype(jnp.int32)
    part = tenth * 10 + hundredth + rounds_up
    whole, part = whole + part // 100, part % 100
    power = jnp.asarray([10**k for k in reversed(range(9))], jnp.int32)
    digits = whole // power % 10
    negative = (value.over < 0) & ((whole > 0) | (part > 0))
    sign, point, nothing, close = (_CHARS.index(x) for x in "-.?>")
    shown = jnp.concatenate(
        [
            jnp.asarray([nothing, sign], jnp.int32),
            digits,
            jnp.stack([jnp.asarray(point, jnp.int32), part // 10, part % 10]),
            jnp.asarray([close, close], jnp.int32),
        ]
    )
    present = jnp.concatenate(
        [
            jnp.stack([~valid, valid & negative]),
            valid & ((whole >= power) | (power == 1)),
            valid & jnp.stack([part > 0, part > 0, part % 10 > 0]),
            jnp.ones(2, bool),
        ]
    )
    place = jnp.where(present, jnp.cumsum(present, dtype=jnp.int32) - 1, _WIDTH)
    tokens = jnp.zeros(_WIDTH, jnp.int32).at[place].set(chars[shown], mode="drop")
    return tokens, jnp.sum(present, dtype=jnp.int32)


def environments(
    data: CalculatorOptions,
    tokenizer: AbstractTokenizer,
    *,
    horizon: int,
    held_out: int | None,
) -> tuple[Questions, Questions | None, list[str]]:
    """The environments of a recipe with `data.task: games.calculator`.

    Arguments and results are those of `envs.questions.environments`.
    """
    settings = {key: value for key, value in vars(data).items() if key != "calls"}
    return gsm8k.environments(
        GSM8KOptions(**settings),
        tokenizer,
        horizon=horizon,
        held_out=held_out,
        make=ft.partial(Calculator, calls=data.calls),
    )
