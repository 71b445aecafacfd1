"""Tokens per second of a server beside `rollout.complete` on the same rows.

    python benchmarks/serve.py --model smollm2-135m

Weights are random and no token ends a row. Both are timed after they have compiled; the
server's requests are submitted to its service, all at once, without HTTP.
"""

import argparse
import json
import queue
import statistics
import time

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from presets import PRESETS

from grpojax import models, rollout
from grpojax.runs.evaluation.generate import Prompts
from grpojax.runs.serve.rows import Row, Sampling
from grpojax.runs.serve.service import Service


class Bytes:
    """What a service needs of a tokenizer: no token ends a row."""

    end_tokens = ()

    def __init__(self, vocab_size: int):
        self.vocab_size = vocab_size


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    add = parser.add_argument
    add("--model", default="tiny", choices=list(PRESETS))
    add("--rows", type=int, default=64)
    add("--prompt", type=int, default=64, help="tokens of each prompt")
    add("--time", type=int, default=128, help="tokens of each completion")
    add("--chunk", type=int, default=8)
    add("--repeats", type=int, default=3)
    return parser.parse_args()


def seconds(run, repeats: int) -> float:
    """The median, after one run that compiles."""
    run()
    found = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        found.append(time.perf_counter() - start)
    return statistics.median(found)


def main() -> None:
    options = parse()
    config = PRESETS[options.model]
    policy = models.Transformer(config, key=jr.key(0))
    tokenizer = Bytes(config.vocab_size)
    shape = options.rows, options.prompt
    prompts = np.random.default_rng(0).integers(0, config.vocab_size, shape)
    env = Prompts(prompts.tolist(), tokenizer, max_completion_length=options.time)
    states = jnp.arange(options.rows, dtype=jnp.int32)
    complete = eqx.filter_jit(rollout.complete)

    def generate():
        jax.block_until_ready(
            complete(policy, env, states, env.prompts, key=jr.key(0)).tokens
        )

    sizes = dict(slots=options.rows, max_prompt=options.prompt, chunk=options.chunk)
    with Service(policy, tokenizer, max_tokens=options.time, **sizes) as service:

        def serve():
            chunks: queue.Queue = queue.Queue()
            for seed, prompt in enumerate(prompts.tolist()):
                row = Row(prompt, options.time, Sampling(), seed, 0, chunks.put)
                service.submit(row)
            left = options.rows
            while left:
                left -= chunks.get().finish is not None

        tokens = options.rows * options.time
        served = tokens / seconds(serve, options.repeats)
        generated = tokens / seconds(generate, options.repeats)
    print(
        json.dumps(
            {
                "platform": jax.default_backend(),
                **vars(options),
                "generate_tokens_per_second": round(generated, 1),
                "serve_tokens_per_second": round(served, 1),
                "ratio": round(served / generated, 3),
            }
        )
    )


if __name__ == "__main__":
    main()
