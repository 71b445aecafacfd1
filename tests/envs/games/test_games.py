"""The games against the same rules in plain Python."""

import random
from collections.abc import Sequence
from fractions import Fraction

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given, settings, strategies as st

from envs.answers import Integer
from envs.games.calculator import Calculator, call_automaton
from envs.games.sudoku import draw_puzzle, solutions
from envs.games.toolkit import evaluate, make_rows
from envs.gsm8k import RAW_TEMPLATE
from envs.options import OPTIONS
from envs.questions import PromptFormat
from grpojax.env import Turn
from grpojax.runs.recipe.tasks import find_task
from grpojax.testing import check_env
from grpojax.text import byte_table, StopString

from ..double import PIECES
from . import oracle
from .conversations import differences, environment, GAMES, TOKENIZER, WIDTH


@pytest.mark.parametrize("game", GAMES)
def test_a_game_answers_as_its_oracle_does(game):
    wrong, seen = differences(game, 400, seed=1)
    assert not wrong and all(count > 20 for count in seen.values()), seen


@pytest.mark.slow
@pytest.mark.parametrize("game", GAMES)
def test_a_game_answers_as_its_oracle_does_in_many_conversations(game):
    for seed in range(10):
        wrong, _ = differences(game, 10_000, seed=100 + seed)
        assert not wrong


@pytest.mark.parametrize("game", ["guess_number", "sudoku"])
def test_a_game_keeps_the_contract(game):
    check_env(environment(game, count=16), key=jax.random.key(0))


@jax.jit
def value_of(data, length):
    found = evaluate(data, jnp.zeros((), jnp.int32), length, jnp.asarray([3, 8]))
    return found


PARTS = st.sampled_from(["3", "8", "1", "0", ".5", "2.", "99999999", "x"])
EXPRESSIONS = st.recursive(
    PARTS,
    lambda inner: st.one_of(
        st.tuples(inner, st.sampled_from("+-*/"), inner).map("".join),
        inner.map("({})".format),
        inner.map("-{}".format),
        inner.map(" {} ".format),
    ),
    max_leaves=6,
)


@settings(max_examples=300, deadline=None)
@given(st.one_of(EXPRESSIONS, st.text("0123456789+-*/(). ", max_size=12)))
@example("1/0")
@example("((((((3))))))")
@example("10000*10000")
@example("3 8")
@example("2*-3")
def test_an_expression_has_the_value_of_its_oracle(text):
    data = np.zeros(32, np.uint8)
    encoded = text.encode()[:32]
    data[: len(encoded)] = list(encoded)
    found = value_of(data, np.int32(len(encoded)))
    value, numbers = oracle.evaluate(encoded.decode())
    got = Fraction(int(found.value.over), int(found.value.under))
    assert (got if found.valid else None) == value
    assert bool(found.uses) == (sorted(numbers) == [(3, 1), (8, 1)])


def calculator(**settings) -> Calculator:
    rows = [{"question": "Half of 48?", "answer": "<<48/2=24>>24\n#### 24"}]
    form = PromptFormat("question")
    sizes = dict(max_completion_length=WIDTH) | settings
    return Calculator(rows, TOKENIZER, Integer("####"), form, **sizes)


def calls_of(stop: StopString, tokens: Sequence[int]) -> int | None:
    """After how many tokens the calculator is called."""
    state, transitions = 0, np.asarray(stop.transitions)
    for place, token in enumerate(tokens, 1):
        state = transitions[state, token]
        if state == stop.found:
            return place
    return None


def some_completion(draw: random.Random) -> bytes:
    number = lambda: draw.choice(["48", "2", "0", ".1", "1.25", "99999999", "7 "])
    text = draw.choice(["", "He has ", "<", "a=b ", "<<x>> ", "<<1+\n", "x" * 60])
    text += "<<" + number()
    for _ in range(draw.randint(0, 4)):
        text += draw.choice("+-*/") + number()
    return (text + draw.choice(["=", "=", "=", "", "=\n"])).encode()[:WIDTH]


@eqx.filter_jit
def answers_of(env, tokens, lengths):
    states, _ = jax.vmap(env.problem)(jnp.zeros(lengths.shape, jnp.int32))
    turns = Turn(tokens, lengths, jnp.ones(lengths.shape, bool))
    return jax.vmap(env.step)(states, turns)[1]


def calculator_differences(count: int, seed: int) -> list:
    env, draw, wrong = calculator(), random.Random(seed), []
    stop = env.stop
    assert stop is not None
    texts = [some_completion(draw) for _ in range(count)]
    tokens, lengths = np.zeros((count, WIDTH), np.int32), np.zeros(count, np.int32)
    called = np.zeros(count, bool)
    for i, text in enumerate(texts):
        own = [byte + 1 for byte in text]
        end = calls_of(stop, own)
        if end != oracle.call(text):
            wrong.append((text, end))
        called[i] = end is not None
        own = own[:end] if called[i] else [*own[: WIDTH - 1], 0]
        tokens[i, : len(own)], lengths[i] = own, len(own)
    answers = jax.device_get(answers_of(env, tokens, lengths))
    for i, text in enumerate(texts):
        reply = TOKENIZER.decode(answers.reply[i, : answers.reply_length[i]])
        expected = oracle.calculator(text[: lengths[i]]) if called[i] else reply
        paid = called[i] and expected != "?>>"
        found = bool(answers.done[i]), float(answers.rewards["calls"][i])
        if reply != expected or found != (not called[i], float(paid)):
            wrong.append((text, reply, expected, found))
    assert 0.2 < called.mean() < 0.95
    return wrong


def test_a_call_is_answered_as_its_oracle_does():
    assert not calculator_differences(500, seed=1)


@pytest.mark.slow
def test_calls_are_answered_as_their_oracle_does_in_many_conversations():
    assert not calculator_differences(100_000, seed=2)


def test_a_token_that_holds_more_than_the_call_calls_nothing():
    pieces = [b"<<", b"4", b"=", b"=8", b"+<<4=", b"=<<4=", b""]
    stop = call_automaton(byte_table(pieces))
    read = lambda *tokens: calls_of(stop, tokens)
    assert read(0, 1, 2) == 3 and read(0, 1, 3) is None and read(0, 1, 3, 2) is None
    assert read(4) == 1 and read(0, 1, 5) == 3 and read(0, 6, 2) == 3


def test_the_last_turn_of_a_calculator_has_the_answer():
    env = calculator(calls=2)
    assert env.max_turns == 3
    check_env(env, key=jax.random.key(0))
    text = b" clips\n#### 24"
    tokens = np.zeros(WIDTH, np.int32)
    tokens[: len(text)] = [byte + 1 for byte in text]
    state, _ = env.problem(jnp.zeros((), jnp.int32))
    turn = Turn(jnp.asarray(tokens), jnp.asarray(len(text) + 1), jnp.asarray(True))
    state, answer = env.step(state, turn)
    assert answer.done and answer.rewards["correct"] == 1 and env.gold(state) == 24
    assert env.answer(turn).value == 24 and RAW_TEMPLATE.endswith("Answer:")
    _, again = env.step(state, turn)
    assert again.done and again.rewards["correct"] == 0


def test_a_puzzle_has_one_solution():
    draw = random.Random(0)
    for blanks in (1, 6, 10):
        row = draw_puzzle(draw, blanks)
        assert solutions(row["grid"]) == (row["solution"],)
        assert row["grid"].count(".") == blanks


def test_no_problem_is_in_both_splits():
    one = lambda draw: {"question": str(draw.randint(0, 60))}
    splits = [make_rows(one, 200, split=x, seed=3) for x in ("train", "test")]
    train, test = ({row["question"] for row in rows} for rows in splits)
    assert train and test and not train & test


@pytest.mark.parametrize("task", [x for x in OPTIONS if x.startswith("games.")])
def test_a_recipe_makes_a_game(task):
    options = OPTIONS[task](train_rows=9)
    make = find_task(task)
    train, test, notes = make(options, TOKENIZER, horizon=60, held_out=3)
    assert (train.size, test.size, notes) == (9, 3, [])
    assert make(options, TOKENIZER, horizon=60, held_out=0)[1] is None
    if task != "games.calculator":
        with pytest.raises(ValueError, match="`evaluations.NAME.problems` says how"):
            make(options, TOKENIZER, horizon=60, held_out=None)
    prompt = TOKENIZER.decode(train.prompts[0, : train.prompt_lengths[0]])
    assert prompt.endswith(":")
    assert b"\n" not in PIECES[int(train.end_tokens[0])]


@pytest.mark.parametrize(
    "task, key, value",
    [
        ("games.guess_number", "largest", 1),
        ("games.guess_number", "turns", 1),
        ("games.countdown", "numbers", 5),
        ("games.calculator", "calls", 0),
        ("games.nim", "stones", 3),
    ],
)
def test_a_number_out_of_range_is_named_by_its_key(task, key, value):
    with pytest.raises(ValueError, match=f"`data.{key}` must be between .* {value}"):
        OPTIONS[task](**{key: value})


def test_a_sudoku_has_a_turn_for_every_blank():
    with pytest.raises(ValueError, match="`data.turns` is at least `data.blanks`"):
        OPTIONS["games.sudoku"](turns=3, blanks=4)
