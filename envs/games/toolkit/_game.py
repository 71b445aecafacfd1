"""What games share: prompts, replies, and turns read as bytes."""

import abc
import hashlib
import json
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int, PyTree

from grpojax.env import AbstractDatasetEnvironment, Rows, TimeStep, Turn
from grpojax.text import (
    AbstractTokenizer,
    Bytes,
    reply_tokens,
    text_reply_tokens,
    to_bytes,
    TokenBytes,
)
from grpojax.types import Prompt

from ..._format import PromptFormat
from ..._prompts import (
    check_horizon,
    end_token_array,
    pad_prompts,
    tokens_containing,
)
from ..options import GameOptions


TEXT_SIZE = 64
"""The bytes of a turn that a game reads: its last ones."""

Row = dict[str, Any]


class Move(NamedTuple):
    """The answer of a game to a turn.

    **Fields:**

    - `reply`: the number of the reply.
    - `valid`: whether the turn is a move by the rules.
    - `won`: whether it ends the game well.
    - `over`: whether the game is over.
    """

    reply: Int[Array, ""]
    valid: Bool[Array, ""]
    won: Bool[Array, ""]
    over: Bool[Array, ""]


class GameState(eqx.Module):
    """The state of a game, and whether it is over."""

    game: PyTree
    over: Bool[Array, ""]


class Game(AbstractDatasetEnvironment[GameState]):
    """A game of several turns, whose replies are among a few known texts.

    They are tokenized once, when it is made: as plain text, where a newline ends a
    turn, or by the chat template. Rewards, paid at each turn:

    - `correct`: 1 at the turn that wins the game.
    - `valid`: 1 / `max_turns` for a turn that is a move by the rules.

    **Fields:**

    - `prompts`, `prompt_lengths`: the prompts, right-padded with 0.
    - `starts`: the state of each game before its first turn.
    - `replies`, `reply_lengths`: the tokens of each reply, right-padded with 0.
    - `token_bytes`: the bytes of every token.
    - `end_tokens`: the tokens that end a turn.
    - `max_completion_length`: the horizon, tokens of all turns and replies.
    - `max_turns`: the most turns.
    - `columns`: the rows of the problems.
    """

    prompts: Int[Array, "problem prefix"]
    prompt_lengths: Int[Array, " problem"]
    starts: PyTree
    replies: Int[Array, "reply width"]
    reply_lengths: Int[Array, " reply"]
    token_bytes: TokenBytes
    end_tokens: Int[Array, " end"]
    max_completion_length: int = eqx.field(static=True)
    max_turns: int = eqx.field(static=True)
    columns: Rows = eqx.field(static=True)

    def __init__(
        self,
        rows: Sequence[Row],
        tokenizer: AbstractTokenizer,
        *,
        max_completion_length: int,
        max_turns: int,
        chat: bool = False,
        system_prompt: str | None = None,
    ):
        """Tokenizes prompts and replies once, on the host.

        **Arguments:**

        - `rows`: the problems, with their `question`.
        - `tokenizer`: the policy's.
        - `max_completion_length`: the horizon, tokens of all turns and replies.
        - `max_turns`: the most turns.
        - `chat`: prompts and replies by the chat template.
        - `system_prompt`: instructions in front of every prompt.

        **Raises:** `ValueError` for sizes that do not fit, or a chat template that
        cannot reply; see `text.reply_tokens`.
        """
        check_horizon(max_completion_length)
        format = PromptFormat("question", chat, system_prompt)
        padded = pad_prompts([format.encode(tokenizer, row) for row in rows])
        texts, newline = self.reply_texts(rows), b"\n"
        if chat:
            first: Any = [{"role": "user", "content": rows[0]["question"]}]
            if system_prompt is not None:
                first = [{"role": "system", "content": system_prompt}, *first]
            replies = reply_tokens(tokenizer, first, texts)
            ends = end_token_array(tokenizer, ())
        else:
            replies = text_reply_tokens(tokenizer, texts)
            extra = tokens_containing(tokenizer.token_bytes, newline)
            ends = end_token_array(tokenizer, extra)
        said = pad_prompts(replies)
        self.prompts = jnp.asarray(padded.tokens)
        self.prompt_lengths = jnp.asarray(padded.lengths)
        self.starts = jax.tree.map(jnp.asarray, self.read(rows))
        self.replies = jnp.asarray(said.tokens)
        self.reply_lengths = jnp.asarray(said.lengths)
        self.token_bytes = tokenizer.token_bytes
        self.end_tokens = jnp.asarray(ends)
        self.max_completion_length = max_completion_length
        self.max_turns = max_turns
        self.columns = Rows.of(rows)

    @abc.abstractmethod
    def read(self, rows: Sequence[Row]) -> PyTree:
        """The states before the first turn, stacked over rows; on the host."""

    @abc.abstractmethod
    def reply_texts(self, rows: Sequence[Row]) -> list[str]:
        """The texts of all replies; on the host."""

    @abc.abstractmethod
    def play(self, game: PyTree, text: Bytes) -> tuple[PyTree, Move]:
        """The next state, and the answer to a turn; pure and total.

        **Arguments:**

        - `game`: the state.
        - `text`: the end of the turn's text, at most `TEXT_SIZE` bytes.
        """

    @property
    def vocab_size(self) -> int:
        return self.token_bytes.length.shape[0]

    @property
    def max_prompt_length(self) -> int:
        return self.prompts.shape[1]

    @property
    def size(self) -> int:
        return self.prompts.shape[0]

    @property
    def rows(self) -> Rows:
        return self.columns

    def problem(self, index: Int[Array, ""]) -> tuple[GameState, Prompt]:
        start = jax.tree.map(lambda x: x[index], self.starts)
        prompt = Prompt(self.prompts[index], self.prompt_lengths[index])
        return GameState(start, jnp.zeros((), bool)), prompt

    def step(self, state: GameState, turn: Turn) -> tuple[GameState, TimeStep]:
        game, move = self.play(state.game, self.text(turn))
        pays = lambda flag: (flag & ~state.over).astype(jnp.float32)
        over = state.over | move.over
        answer = TimeStep(
            reply=self.replies[move.reply],
            reply_length=self.reply_lengths[move.reply],
            rewards={
                "correct": pays(move.won),
                "valid": pays(move.valid) / self.max_turns,
            },
            done=over,
        )
        return GameState(game, over), answer

    def text(self, turn: Turn) -> Bytes:
        """The end of a turn's text."""
        inside = jnp.arange(turn.tokens.shape[0], dtype=jnp.int32) < turn.length
        return to_bytes(self.token_bytes, turn.tokens, inside, size=TEXT_SIZE)


def make_rows(
    draw_one: Callable[[random.Random], Row],
    count: int,
    *,
    split: str,
    seed: int,
    apart: bool = True,
) -> list[Row]:
    """Problems that are made up from a seed.

    **Arguments:**

    - `draw_one`: a problem, by a generator of random numbers.
    - `count`: how many.
    - `split`: `"train"` or `"test"`.
    - `seed`: of the draws.
    - `apart`: whether no problem is in both splits, for any seeds: one in eight is a
        test problem, by a hash of its columns.

    **Returns:** the rows.
    """
    draw, rows = random.Random(f"{split}:{seed}"), []
    while len(rows) < count:
        row = draw_one(draw)
        if not apart or _is_test(row) == (split == "test"):
            rows.append(row)
    return rows


def _is_test(row: Mapping[str, object]) -> bool:
    content = json.dumps(row, sort_keys=True).encode()
    return hashlib.blake2b(content, digest_size=8).digest()[0] % 8 == 0


def both_splits(
    game: Callable[..., Game],
    data: GameOptions,
    tokenizer: AbstractTokenizer,
    draw_one: Callable[[random.Random], Row],
    *,
    horizon: int,
    held_out: int | None,
    apart: bool = True,
) -> tuple[Game, Game | None, list[str]]:
    """The environments of a recipe that plays a game.

    **Arguments:** as those of `envs.questions.environments`, and of `make_rows`.

    **Returns:** the environment to train on, the one to evaluate on (`None` for 0
    problems), and no messages.

    **Raises:** `ValueError` if the number of problems to evaluate is not given.
    """
    if held_out is None:
        raise ValueError(
            "Problems that are made up have no end, so `evaluations.NAME.problems` "
            "says how many are evaluated. Received null: set it."
        )

    def make(split: str, count: int) -> Game:
        rows = make_rows(draw_one, count, split=split, seed=data.seed, apart=apart)
        return game(
            rows,
            tokenizer,
            max_completion_length=horizon,
            max_turns=data.turns,
            chat=data.chat,
            system_prompt=data.system_prompt,
        )

    test = make("test", held_out) if held_out else None
    return make("train", data.train_rows), test, []
