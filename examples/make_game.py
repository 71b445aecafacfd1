"""Teaches the shipped model the form of a task, so that it can be trained on it.

    python -m examples.make_game --game countdown --out MODEL
    grpojax train examples/recipes/games/countdown-tiny.yaml --set model.path=MODEL

The model goes on being trained by next-token prediction, on turns that are moves by the
rules and seldom good ones: reinforcement learning has then something to choose from.

- `countdown`: expressions of two numbers as the first turn and as the second, of which
  one in eight is a solution.
- `calculator`: word problems whose calculations are calls, `<<3+4=7>>`; as those of the
  shipped model, many are guessed, or stop before the answer.
- `products`: products of two numbers of two digits, which the model cannot calculate,
  as calls. The problems are written to OUT/problems.jsonl; of the first 512, which
  recipes hold out, none is taught.
- `next_video`: any option of a slate, whose views are written before its number.
- `opinion`: any direction.
"""

import argparse
import itertools
import json
import random
import re
from importlib.resources import files
from pathlib import Path

import jax.numpy as jnp
import optax

from envs.games.countdown import draw_problem
from envs.games.toolkit import make_rows
from envs.gsm8k import word_problems
from envs.slates.answers import DIRECTIONS
from envs.slates.origin import read_example
from envs.slates.rows import generate
from envs.slates.templates import compact
from examples.make_default import (
    BATCH,
    encode,
    fit,
    mixed,
    start,
    STEPS_PER_CALL,
    Text,
)
from grpojax.models import load, save, Transformer
from grpojax.text import AbstractTokenizer, load_tokenizer


WIDTH = 96


def countdown(count: int, draw: random.Random) -> list[Text]:
    """First and second turns of countdown with two numbers up to 20."""
    texts = []
    one = lambda draw: draw_problem(draw, numbers=2, largest=20)
    for row in make_rows(one, count, split="train", seed=draw.getrandbits(32)):
        first, second = (_expression(row, draw) for _ in range(2))
        prompt = row["question"]
        if draw.random() < 0.5:
            prompt, first = f"{prompt} {first}</s>{_told(first)} Expression:", second
        texts.append(Text(prompt, first))
    return texts


def _expression(row: dict, draw: random.Random) -> str:
    if draw.random() < 0.125:
        return row["solution"]
    one, other = draw.sample(row["numbers"], 2)
    return f"{one}{draw.choice('+-*/')}{other}"


def _told(expression: str) -> str:
    one, sign, other = re.split(r"([-+*/])", expression)
    a, b = int(one), int(other)
    exact = sign != "/" or a % b == 0
    results = {"+": a + b, "-": a - b, "*": a * b, "/": a // b}
    told = exact and 0 <= results[sign] < 100
    return f"That is {results[sign]}." if told else "That is no number from 0 to 99."


def calculator(count: int, draw: random.Random) -> list[Text]:
    """Word problems in three styles, with calls."""
    return _calling(word_problems(count, seed=draw.getrandbits(32)), draw)


def _calling(rows: list[dict[str, str]], draw: random.Random) -> list[Text]:
    call = lambda text: re.sub(r"\d+[-+*/]\d+=\d+", r"<<\g<0>>>", text)
    return [Text(x.prompt, call(x.completion)) for x in mixed(rows, draw)]


def products(count: int, draw: random.Random) -> list[Text]:
    """Products in the same styles."""
    return _calling(product_problems(count, draw), draw)


def product_problems(
    count: int, draw: random.Random, *, held_out: bool = False
) -> list[dict[str, str]]:
    """Word problems of one product; an eighth of the pairs of numbers is held out."""
    numbers = range(11, 100)
    pairs = [
        (p, q)
        for p, q in itertools.product(numbers, numbers)
        if ((7 * p + 3 * q) % 8 == 0) == held_out
    ]
    asked = "There are {} boxes with {} {things} in each box. "
    asked += "How many {things} are there in all?"
    rows = []
    for p, q in draw.choices(pairs, k=count):
        things = draw.choice(("apples", "pens", "cards", "shells", "eggs", "stamps"))
        answer = f"{p}*{q}={p * q} {things}\n#### {p * q}"
        question = asked.format(p, q, things=things)
        rows.append({"question": question, "answer": answer})
    return rows


def next_video(count: int, draw: random.Random) -> list[Text]:
    """Slates, each with a random option; nothing says which one was chosen."""
    texts = []
    for row in itertools.islice(generate(draw.getrandbits(32), "easy"), count):
        example = read_example(row)
        number = draw.randint(1, len(example.slate))
        views = example.slate[number - 1]["views"]
        completion = f" {views}<answer>{number}</answer>"
        texts.append(Text(compact(example, "video"), completion))
    return texts


def opinion(count: int, draw: random.Random) -> list[Text]:
    """Opinions and videos, each with a random direction."""
    texts = []
    for row in itertools.islice(generate(draw.getrandbits(32), "easy"), count):
        label = draw.choice(DIRECTIONS)
        prompt = compact(read_example(row), "direction")
        texts.append(Text(prompt, f" <opinion>{label}</opinion>"))
    return texts


GAMES = {
    "countdown": countdown,
    "calculator": calculator,
    "products": products,
    "next_video": next_video,
    "opinion": opinion,
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--game", choices=GAMES, required=True)
    parser.add_argument("--out", type=Path, required=True, help="the directory to make")
    parser.add_argument("--steps", type=int, default=300, help="optimizer steps")
    parser.add_argument("--seed", type=int, default=0, help="chooses everything")
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    arguments = parser.parse_args()
    model, tokenizer = teach(
        arguments.game, arguments.steps, arguments.seed, arguments.learning_rate
    )
    save(model, arguments.out, tokenizer=tokenizer)
    if arguments.game == "products":
        draw = random.Random(arguments.seed)
        rows = product_problems(512, draw, held_out=True)
        lines = map(json.dumps, rows + product_problems(4096, draw))
        text = "\n".join(lines) + "\n"
        (arguments.out / "problems.jsonl").write_text(text, encoding="utf-8")


def teach(
    game: str, steps: int, seed: int, learning_rate: float
) -> tuple[Transformer, AbstractTokenizer]:
    """The shipped model after so many steps of next-token prediction."""
    path = str(files("grpojax") / "assets" / "gsm8k-tiny")
    tokenizer, model = load_tokenizer(path), load(path, dtype="float32")
    optimizer = optax.chain(
        optax.clip_by_global_norm(1.0), optax.adamw(learning_rate, b2=0.98)
    )
    state = start(model, optimizer, seed)
    per_call = min(steps, STEPS_PER_CALL)
    for call in range(steps // per_call):
        draw = random.Random(f"{seed}:{call}")
        texts = GAMES[game](BATCH * per_call, draw)
        state, mean = fit(state, encode(tokenizer, texts, WIDTH), optimizer)
        print(f"{(call + 1) * per_call} steps: loss {jnp.round(mean, 4)}", flush=True)
    return state.policy, tokenizer


if __name__ == "__main__":
    main()
