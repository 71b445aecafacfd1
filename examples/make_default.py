"""Trains the model and the tokenizer that grpojax ships, from a seed alone.

    python examples/make_default.py --out DIRECTORY

writes a directory in Hugging Face's format: a sentencepiece tokenizer and a Llama of
0.8 million parameters, trained by next-token prediction (`grpojax.SupervisedStep`) on
generated word problems (the training split of `envs.gsm8k.word_problems`), in three
stages:

1. calculations without a question, so that it can calculate;
2. problems with worked answers, so that it can solve them;
3. problems in three styles, so that reinforcement learning has something to choose
   from: worked answers, guesses without working, and workings that stop before `#### `.

The result is right about four times in ten, though it could be right nine times in ten.
The same seed gives the same bytes on the same kind of machine. (The one that is shipped
was made before the steps were those of `SupervisedStep`: the same lessons and loss, its
rows in another order.) `--steps` shortens every stage; the shipped model's took about
15 minutes on two CPU cores.

    python examples/make_default.py --out DIRECTORY --shape gemma

makes a twin of another family, by the same tokenizer and the same lessons: `gemma`,
with the norms, the scales and the windows of Gemma 3, or `experts`, with eight experts
of which a token has two, as Qwen3-MoE. The default's recipe trains them:

    grpojax train --set model.path=DIRECTORY --out out/twin
"""

import argparse
import dataclasses
import io
import json
import random
from pathlib import Path
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import sentencepiece
from jaxtyping import Array, Float

from envs.gsm8k import RAW_TEMPLATE, word_problems
from grpojax import Demonstrations, init, SupervisedStep, train, TrainState
from grpojax.curriculum import ShuffledEpochs
from grpojax.models import (
    Block,
    Experts,
    LayerKind,
    Rope,
    save,
    Transformer,
    TransformerConfig,
)
from grpojax.text import AbstractTokenizer, SentencePieceTokenizer, TokenizerFiles
from grpojax.types import Prompt


VOCAB_SIZE = 576
WIDTH = 76  # Holds the longest prompt with the longest worked answer.
BATCH = 64
STEPS_PER_CALL = 50
LEARNING_RATE = 3e-3


class Text(NamedTuple):
    """A prompt, and what should follow it."""

    prompt: str
    completion: str


def drill(rows: list[dict[str, str]], draw: random.Random) -> list[Text]:
    """Calculations out of everybody's worked answers, about as many as fit a row."""
    lines = [line for row in rows for line in row["answer"].split("\n")[:-1]]
    sums = [line.split(" ")[0] for line in lines]
    return [Text("", "\n".join(draw.choices(sums, k=11))) for _ in rows]


def worked(rows: list[dict[str, str]], draw: random.Random) -> list[Text]:
    """Problems and their worked answers."""
    del draw  # Every row is told as it is.
    return [Text(RAW_TEMPLATE.format(**row), row["answer"]) for row in rows]


def mixed(rows: list[dict[str, str]], draw: random.Random) -> list[Text]:
    """Problems that are answered well, badly, or not at all."""
    texts = []
    for prompt, answer in worked(rows, draw):
        working, _, number = answer.rpartition("\n#### ")
        style = draw.choices(("worked", "guess", "stop"), (0.40, 0.40, 0.20))[0]
        if style == "guess":
            guess = number if draw.random() < 0.25 else draw.randint(1, 99)
            answer = f"#### {guess}"
        elif style == "stop":
            answer = working
        texts.append(Text(prompt, answer))
    return texts


LESSONS = ((drill, 0.40), (worked, 0.35), (mixed, 0.25))
"""What is taught, and its share of the steps."""


def train_tokenizer(seed: int) -> SentencePieceTokenizer:
    """A byte-pair vocabulary of whole words, single digits, and bytes for all else."""
    texts = mixed(word_problems(20_000, seed=seed), random.Random(seed))
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=(f"{prompt} {completion}" for prompt, completion in texts),
        model_writer=model,
        model_type="bpe",
        vocab_size=VOCAB_SIZE,
        character_coverage=1.0,
        byte_fallback=True,
        split_digits=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        pad_id=3,
        num_threads=1,
        minloglevel=2,
    )
    config = {
        "tokenizer_class": "LlamaTokenizer",
        "unk_token": "<unk>",
        "bos_token": "<s>",
        "eos_token": "</s>",
        "pad_token": "<pad>",
        "add_bos_token": False,
        "add_eos_token": False,
        "legacy": False,
    }
    files = {
        "tokenizer.model": model.getvalue(),
        "tokenizer_config.json": json.dumps(config, indent=2).encode() + b"\n",
    }
    return SentencePieceTokenizer(TokenizerFiles(files))


def encode(
    tokenizer: AbstractTokenizer, texts: list[Text], width: int = WIDTH
) -> Demonstrations:
    """Tokens of prompts and completions, all of one width; only the latter are learned.

    An exercise without a prompt begins with its first token.
    """
    end, equals = tokenizer.end_tokens[0], tokenizer.token_id("=")
    shape = len(texts), width
    prompts, tokens = np.zeros(shape, np.int32), np.zeros(shape, np.int32)
    lengths, learned = np.zeros(len(texts), np.int32), np.zeros(shape, bool)
    for row, text in enumerate(texts):
        prompt = tokenizer.encode(text.prompt)
        together = [*prompt, *tokenizer.encode(text.completion), end][:width]
        lengths[row] = first = max(len(prompt), 1)
        rest = np.array(together[first:])
        prompts[row, :first], tokens[row, : len(rest)] = together[:first], rest
        learned[row, : len(rest)] = True
        if not prompt:
            # Nobody can know the numbers of an exercise, only what comes out: at most
            # two digits, and the end of the line.
            result = [np.roll(tokens[row] == equals, shift) for shift in (1, 2, 3)]
            learned[row] &= np.any(result, axis=0)
    prompt = Prompt(jnp.asarray(prompts), jnp.asarray(lengths))
    return Demonstrations(prompt, jnp.asarray(tokens), jnp.asarray(learned))


def start(
    model: Transformer, optimizer: optax.GradientTransformation, seed: int
) -> TrainState:
    """The train state before the first demonstrations."""
    return init(model, optimizer=optimizer, key=jr.key(seed))


@eqx.filter_jit
def fit(
    state: TrainState, given: Demonstrations, optimizer: optax.GradientTransformation
) -> tuple[TrainState, Float[Array, ""]]:
    """Takes one step for each batch of the demonstrations: an epoch."""
    step = SupervisedStep(given, optimizer, BATCH)
    memory = ShuffledEpochs().start(given.size)
    state = dataclasses.replace(state, curriculum=memory)
    state, metrics = train(state, step, steps=given.size // BATCH)
    return dataclasses.replace(state, curriculum=None), jnp.mean(metrics["loss"])


LLAMA = TransformerConfig(
    vocab_size=VOCAB_SIZE,
    hidden_size=128,
    intermediate_size=352,
    num_layers=4,
    num_heads=4,
    num_kv_heads=2,
    head_dim=32,
    tied=True,
    max_positions=256,
)
# Windows are shorter than a problem, and every fourth layer sees all of it.
NEAR, FAR = LayerKind(24, Rope(10_000.0)), LayerKind(None, Rope(1e6))
GEMMA = Block(
    norms="both",
    norm_offset=1.0,
    activation="gelu_pytorch_tanh",
    attention_scale=32**-0.5,
)
SHAPES = {
    "llama": LLAMA,
    "gemma": dataclasses.replace(
        LLAMA,
        rope_theta=1e6,
        qk_norm=True,
        layers=(NEAR, NEAR, NEAR, FAR),
        block=GEMMA,
        embedding_scale=LLAMA.hidden_size**0.5,
        family="gemma3_text",
    ),
    "experts": dataclasses.replace(
        LLAMA,
        qk_norm=True,
        block=Block(experts=Experts(count=8, chosen=2, size=176)),
        family="qwen3_moe",
    ),
}
"""The configurations by name; the first is the one that is shipped."""


def train_model(
    config: TransformerConfig, tokenizer: SentencePieceTokenizer, steps: int, seed: int
) -> Transformer:
    """Teaches a new model the lessons, one after the other."""
    per_call = min(steps, STEPS_PER_CALL)
    calls = [
        lesson
        for lesson, share in LESSONS
        for _ in range(max(1, round(share * steps / per_call)))
    ]
    total = per_call * len(calls)
    schedule = optax.warmup_cosine_decay_schedule(
        0.0, LEARNING_RATE, 1 + total // 20, total, LEARNING_RATE / 100
    )
    optimizer = optax.chain(
        optax.clip_by_global_norm(1.0),
        optax.adamw(schedule, b2=0.98, weight_decay=0.05),
    )
    model = Transformer(config, key=jr.key(seed))
    state = start(model, optimizer, seed)
    for call, lesson in enumerate(calls):
        draw = random.Random(f"{seed}:{call}")
        rows = word_problems(BATCH * per_call, seed=draw.getrandbits(32))
        given = encode(tokenizer, lesson(rows, draw))
        state, mean = fit(state, given, optimizer)
        print(f"{call + 1}/{len(calls)} {lesson.__name__}: loss {mean:.4f}", flush=True)
    return state.policy


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="the directory to make")
    parser.add_argument("--steps", type=int, default=2400, help="optimizer steps")
    parser.add_argument("--seed", type=int, default=0, help="chooses everything")
    shapes = dict(choices=SHAPES, default="llama", help="the family of the model")
    parser.add_argument("--shape", **shapes)
    arguments = parser.parse_args()
    tokenizer = train_tokenizer(arguments.seed)
    config = SHAPES[arguments.shape]
    model = train_model(config, tokenizer, arguments.steps, arguments.seed)
    half = jax.tree.map(lambda x: x.astype(jnp.bfloat16), model)
    save(half, arguments.out, tokenizer=tokenizer)


if __name__ == "__main__":
    main()
