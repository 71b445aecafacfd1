"""Wordle: the game says which letters of a guess are in the secret word.

Guess my word of five letters. Guess: crane
G-Y--. Guess: civic
"""

import itertools
import random
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from grpojax.text import AbstractTokenizer, Bytes

from .options import WordleOptions
from .toolkit import both_splits, Game, last_run, Move, Row


_LETTERS = 5
_MARKS = "-YG"  # Not in the word; elsewhere in it; here.
_INVALID = len(_MARKS) ** _LETTERS

WORDS = """
about above actor adult agent alarm album alert angle apple arena argue arrow award
bacon badge basic beach begin birth black blade blame blind block blood board brain
brand bread break brick brief bring broad brown brush build cabin cable candy carry
catch cause chain chair chart chase cheap check chess chest chief child civic claim
class clean clear climb clock close cloth cloud coach coast coral count cover craft
crane cream crime cross crowd crown cycle daily dance depth diary doubt draft drama
dream dress drink drive eager eagle early earth eight elbow elder empty enemy enjoy
entry equal event every exact extra faith false fancy favor field fifth fight final
first flame flash fleet floor flour focus force frame fresh front fruit funny ghost
giant glass globe grace grade grain grand grape grass great green group guard guess
guest guide happy heart heavy honey horse hotel house human humor image index inner
issue ivory jelly joint judge juice knife known label labor large laser laugh layer
lemon level light limit local lucky lunch magic major maple march match metal minor
model money month motor mount mouse mouth movie music night noble noise north novel
nurse ocean offer olive onion order other outer owner paint panel paper party peace
phone photo piano pilot pitch place plain plane plant plate point pound power press
price pride prize proof proud queen quick quiet radio range rapid reach ready river
robot rough round route royal rural scale scene scout sense seven shade shape share
sheep shelf shell shift shine shirt shock shore short sight skill sleep slice small
smart smile smoke snake solid sound south space spare speak speed spice spoon sport
staff stage stair stamp stand start state steam steel stick stone store storm story
sugar sunny sweet table taste teach thank thick thing third tiger title toast today
total touch tower track trade train treat trend trial truck trust truth uncle under
union upper urban usual value video visit vital voice waste watch water wheel white
whole woman world worry worth young youth zebra
""".split()
"""The secret words."""


class Wordle(Game):
    """Wordle: the guess is the last word of a turn, any five letters.

    Letters that a guess has more often than the secret are marked from the left, those
    that are in place first.
    """

    def read(self, rows: Sequence[Row]) -> Int[np.ndarray, "problem letter"]:
        return np.array([list(row["word"].encode()) for row in rows], np.int32)

    def reply_texts(self, rows: Sequence[Row]) -> list[str]:
        del rows
        patterns = map("".join, itertools.product(_MARKS, repeat=_LETTERS))
        texts = [f"{pattern}. Guess:" for pattern in patterns]
        return [*texts[:-1], "Right.", "Five letters, please. Guess:"]

    def play(self, game: Int[Array, " letter"], text: Bytes):
        lower = text.data | 0x20
        begin, end = last_run(text, (lower >= ord("a")) & (lower <= ord("z")))
        valid = end - begin == _LETTERS
        letters = jnp.arange(_LETTERS, dtype=jnp.int32)
        place = jnp.clip(begin + letters, 0, text.data.shape[0] - 1)
        guess = lower[place].astype(jnp.int32)
        here = guess == game
        same = guess[:, None] == guess
        earlier = same & ~here & (letters < letters[:, None])
        others = (guess[:, None] == game) & ~here
        in_word = jnp.sum(earlier, axis=1) < jnp.sum(others, axis=1)
        marks = jnp.where(here, 2, jnp.where(in_word, 1, 0))
        power = jnp.asarray([3**k for k in reversed(range(_LETTERS))], jnp.int32)
        reply = jnp.sum(marks.astype(jnp.int32) * power, dtype=jnp.int32)
        won = valid & jnp.all(here)
        return game, Move(jnp.where(valid, reply, _INVALID), valid, won, won)


def environments(
    data: WordleOptions,
    tokenizer: AbstractTokenizer,
    *,
    horizon: int,
    held_out: int | None,
) -> tuple[Game, Game | None, list[str]]:
    """The environments of a recipe with `data.task: games.wordle`.

    Arguments and results are those of `envs.questions.environments`. One word in eight
    is held out.
    """

    def draw_one(draw: random.Random) -> Row:
        question = (
            "Guess my word of five letters. G: in place, Y: elsewhere, -: not in it. "
            "Guess:"
        )
        return {"question": question, "word": draw.choice(WORDS)}

    return both_splits(
        Wordle, data, tokenizer, draw_one, horizon=horizon, held_out=held_out
    )
