"""Conversations with the games, by random texts that are often nearly right."""

import random

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from envs.games import countdown, guess_number, nim, sudoku, wordle
from envs.games.toolkit import make_rows
from grpojax.env import Turn

from ..double import ByteTokenizer
from . import oracle


TURNS, WIDTH = 4, 80
TOKENIZER = ByteTokenizer()


def number(draw, row, game):
    del row, game
    return str(draw.choice([0, 1, 2, 3, draw.randint(1, 20), draw.randint(0, 10**7)]))


def expression(draw, row, game):
    del game
    if draw.random() < 0.2:
        return row["solution"]
    numbers = [str(x) for x in draw.sample(row["numbers"], len(row["numbers"]))]
    if draw.random() < 0.2:
        numbers[0] = draw.choice(["0", ".5", "2.", "1.5.1", "99999999", "7", "x", ""])
    while len(numbers) > 1:
        one, other = numbers.pop(), numbers.pop()
        made = one + draw.choice(["+", "-", "*", "/", " + ", "**", ""]) + other
        numbers.append(f"({made})" if draw.random() < 0.5 else made)
    made = numbers[0]
    return "-" * (draw.random() < 0.1) + made + draw.choice(["", "=", " = 7", "."])


def cell(draw, row, game):
    free = [i for i, x in enumerate(game["grid"]) if x == "."]
    if free and draw.random() < 0.7:
        place = draw.choice(free)
        digits = place // 4 + 1, place % 4 + 1, row["solution"][place]
        return "{} {} {}".format(*digits)
    return draw.choice(["", "r", ", "]).join(
        draw.choices("012345", k=draw.randint(2, 4))
    )


def word(draw, row, game):
    del game
    if draw.random() < 0.5:
        return draw.choice([row["word"].upper(), draw.choice(wordle.WORDS)])
    letters = row["word"] + draw.choice(row["word"]) + "e"
    return "".join(draw.choices(letters, k=draw.choice([4, 5, 5, 5, 6])))


GAMES = {
    "guess_number": (guess_number.GuessNumber, oracle.guess_number, number),
    "countdown": (countdown.Countdown, oracle.countdown, expression),
    "nim": (nim.Nim, oracle.nim, number),
    "sudoku": (sudoku.Sudoku, oracle.sudoku, cell),
    "wordle": (wordle.Wordle, oracle.wordle, word),
}
"""The environment, the oracle and a maker of turns for each game."""


def row_of(game: str, draw: random.Random) -> dict:
    if game == "guess_number":
        return {"question": "?", "secret": draw.randint(1, 20), "largest": 20}
    if game == "countdown":
        return countdown.draw_problem(draw, draw.choice([2, 3, 4]), 99)
    if game == "nim":
        opponent = draw.choice(["perfect", "one"])
        return {"question": "?", "stones": draw.randint(3, 15), "opponent": opponent}
    if game == "sudoku":
        return sudoku.draw_puzzle(draw, draw.choice([1, 2, 3, 8]))
    return {"question": "?", "word": draw.choice(wordle.WORDS)}


def environment(game: str, count: int = 256, seed: int = 0, **settings):
    rows = make_rows(
        lambda draw: row_of(game, draw), count, split="test", seed=seed, apart=False
    )
    sizes = dict(max_completion_length=WIDTH, max_turns=TURNS) | settings
    return GAMES[game][0](rows, TOKENIZER, **sizes)


@eqx.filter_jit
def play_all(env, problems, tokens, lengths):
    """All turns of many conversations: their answers, stacked over turns."""
    states, _ = jax.vmap(env.problem)(problems)

    def step(states, turn):
        turns = Turn(turn[0], turn[1], jnp.ones(turn[1].shape, bool))
        states, answer = jax.vmap(env.step)(states, turns)
        return states, answer

    return jax.lax.scan(step, states, (tokens, lengths))[1]


def turn_text(draw, make, row, game) -> bytes:
    filler = lambda: draw.choice(["", "", " ", "I say ", "é\n", "x" * 70, "12", "( "])
    text = filler() + make(draw, row, game) + draw.choice(["\n", "", ".\n", " \n"])
    return text.encode()[:WIDTH]


def differences(game: str, count: int, seed: int = 0) -> tuple[list, dict[str, int]]:
    """Where a game and its oracle differ, and how often each kind of answer occurs."""
    env, draw = environment(game, seed=seed), random.Random(f"{game}:{seed}")
    _, judge, make = GAMES[game]
    problems = [draw.randrange(env.size) for _ in range(count)]
    rows = {x: {k: v[x] for k, v in env.rows.items()} for x in range(env.size)}
    texts, expected = [], []
    for problem in problems:
        state, over = dict(rows[problem]), False
        for _ in range(TURNS):
            text = turn_text(draw, make, rows[problem], state)
            before = dict(state)
            answer = judge(state, text)
            if over:
                answer = oracle.Answer("", False, False, True)
                state = before
            over = over or answer.over
            texts.append(text)
            expected.append(answer)
    tokens = np.zeros((count * TURNS, WIDTH), np.int32)
    for row, text in zip(tokens, texts, strict=True):
        row[: len(text)] = np.frombuffer(text, np.uint8).astype(np.int32) + 1
    lengths = np.array([len(text) for text in texts], np.int32)
    by_turn = lambda x: np.moveaxis(x.reshape(count, TURNS, *x.shape[1:]), 0, 1)
    answers = jax.device_get(
        play_all(env, np.array(problems, np.int32), by_turn(tokens), by_turn(lengths))
    )
    wrong, seen = [], {"valid": 0, "won": 0, "over": 0}
    known = {}
    for i, answer in enumerate(expected):
        c, t = divmod(i, TURNS)
        reply = answers.reply[t, c, : answers.reply_length[t, c]].tobytes()
        if reply not in known:
            known[reply] = TOKENIZER.decode(np.frombuffer(reply, np.int32))
        found = oracle.Answer(
            known[reply] if answer.reply else "",
            bool(answers.rewards["valid"][t, c] == np.float32(1 / TURNS)),
            bool(answers.rewards["correct"][t, c] == 1),
            bool(answers.done[t, c]),
        )
        for name in seen:
            seen[name] += getattr(answer, name)
        if found != answer:
            wrong.append((rows[problems[c]], texts[i], answer, found))
    return wrong, seen
