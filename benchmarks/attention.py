"""Attention kernels on a GPU, by block size.

    python benchmarks/attention.py --head-dim 64 --repeats 7

Decoding: one token of each of 16 x 8 rows, which attends to a prompt that 8 of them
share and to a ring buffer of which 64 or 512 columns are visible. Training: 16 streams
of 512 tokens, forward and backward. Times are of one call in a compiled loop of many.
"""

import argparse
import itertools
import time
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array

from grpojax.models.attention._blocks import kernel_config, KernelConfig, Source
from grpojax.models.attention._kernel import backward, forward


DTYPE = jnp.bfloat16


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--head-dim", type=int, default=64)
    add("--repeats", type=int, default=7, help="queries that share a key")
    add("--kv-heads", type=int, default=2)
    add("--prompts", type=int, default=16)
    add("--group", type=int, default=8)
    add("--prefix", type=int, default=256)
    add("--time", type=int, default=512)
    add("--calls", type=int, default=100, help="of a kernel, in one program")
    add("--interpret", action="store_true", help="without a GPU; its times say nothing")
    return parser.parse_args()


def microseconds(loop, calls: int, *operands: Array) -> float:
    """Of one of so many calls in a program, in its best run of three."""
    compiled = jax.jit(loop).lower(*operands).compile()
    jax.block_until_ready(compiled(*operands))
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        jax.block_until_ready(compiled(*operands))
        seconds.append(time.perf_counter() - start)
    return min(seconds) / calls * 1e6


def caches(keys: Iterator, *shape: int) -> tuple[Array, Array]:
    """Random keys and values of `[*rows head head_dim column]`."""
    *rows, head_dim, columns = shape
    flipped = (*rows, columns, head_dim)
    draw = lambda shape: jr.normal(next(keys), shape, DTYPE)
    return draw(shape), draw(flipped)


def variants(config: KernelConfig, **choices: list[int]) -> list[KernelConfig]:
    """The configuration that is used, and then every other choice."""
    every = [
        config._replace(**dict(zip(choices, values, strict=True)))
        for values in itertools.product(*choices.values())
    ]
    return [config, *(x for x in every if x != config)]


def decoding(options: argparse.Namespace) -> Iterator[str]:
    keys = iter(jr.split(jr.key(0), 16))
    heads, head_dim, time = options.kv_heads, options.head_dim, options.time
    rows = options.prompts, options.group
    query = jr.normal(next(keys), (*rows, heads, options.repeats, head_dim), DTYPE)
    own, ring = (caches(keys, *rows, heads, head_dim, n) for n in (1, time))
    prompt = caches(keys, options.prompts, heads, head_dim, options.prefix)

    def loop(config: KernelConfig, visible: int):
        def one(query, own, prompt, ring):
            seen = [jnp.arange(x[0].shape[-1])[None] for x in (own, prompt, ring)]
            shown = (1, options.prefix - 1, visible)
            sources = tuple(
                Source(*x, columns < n)
                for x, columns, n in zip((own, prompt, ring), seen, shown, strict=True)
            )
            return forward(config, query, sources)[0]

        every = jax.vmap(jax.vmap(one, in_axes=(0, 0, None, 0)))
        return lambda query, *rest: jax.lax.fori_loop(
            0, options.calls, lambda _, query: every(query, *rest), query
        )

    config = kernel_config(
        query[0, 0], options.repeats, DTYPE, interpret=options.interpret
    )
    yield f"| columns | warps | stages | {time // 8} visible, µs | {time}, µs |"
    yield "|---|---|---|---|---|"
    for choice in variants(
        config, block_columns=[64, 128], num_warps=[2, 4, 8], num_stages=[1, 2, 3]
    ):
        operands = query, own, prompt, ring
        took = [
            microseconds(loop(choice, visible), options.calls, *operands)
            for visible in (time // 8, time)
        ]
        shape = f"| {choice.block_columns} | {choice.num_warps} | {choice.num_stages} "
        yield f"{shape}| {took[0]:.1f} | {took[1]:.1f} |"


def training(options: argparse.Namespace) -> Iterator[str]:
    keys = iter(jr.split(jr.key(1), 16))
    streams, time = options.prompts, options.time
    heads, head_dim, repeats = options.kv_heads, options.head_dim, options.repeats
    query = jr.normal(next(keys), (streams, heads, time * repeats, head_dim), DTYPE)
    prompt, own = (
        caches(keys, streams, heads, head_dim, n) for n in (options.prefix, time)
    )
    before = jnp.ones((1, options.prefix), bool)
    causal = jnp.tril(jnp.ones((time, time), bool))
    sources_of = lambda prompt, own: (Source(*prompt, before), Source(*own, causal))

    def ahead(config: KernelConfig):
        one = lambda query, prompt, own: forward(config, query, sources_of(prompt, own))
        return jax.vmap(one)

    def back(config: KernelConfig):
        def one(query, prompt, own, mixed, normalizer, gradient):
            sources = sources_of(prompt, own)
            return backward(config, query, sources, mixed, normalizer, gradient)

        return jax.vmap(one)

    config = kernel_config(query[0], repeats, DTYPE, interpret=options.interpret)
    yield "| rows | columns | warps | stages | forward, µs | backward, µs |"
    yield "|---|---|---|---|---|---|"
    for choice in variants(
        config, block_rows=[32, 64, 128], num_warps=[4, 8], num_stages=[2, 3]
    ):

        def forwards(query, prompt, own, choice=choice):
            call = lambda _, query: ahead(choice)(query, prompt, own)[0]
            return jax.lax.fori_loop(0, options.calls, call, query)

        def backwards(query, prompt, own, mixed, normalizer, choice=choice):
            def call(_, gradient):
                rest = mixed, normalizer, gradient
                found = jax.tree.leaves(back(choice)(query, prompt, own, *rest))
                # All of them are asked for, so that none is left out.
                least = sum(jnp.sum(x.astype(jnp.float32)) for x in found) * 1e-9
                return found[0] + least.astype(DTYPE)

            return jax.lax.fori_loop(0, options.calls, call, mixed)

        given = query, prompt, own
        mixed, normalizer = jax.jit(ahead(choice))(*given)
        took = [
            microseconds(forwards, options.calls, *given),
            microseconds(backwards, options.calls, *given, mixed, normalizer),
        ]
        shape = (
            f"| {choice.block_rows} | {choice.block_columns} "
            f"| {choice.num_warps} | {choice.num_stages} "
        )
        yield f"{shape}| {took[0]:.0f} | {took[1]:.0f} |"


def main():
    options = parse()
    device = jax.devices()[0]
    if device.platform != "gpu" and not options.interpret:
        raise SystemExit(
            f"The kernels are for NVIDIA GPUs. Received a {device.platform}: "
            "--interpret computes what they would."
        )
    print(f"{device.device_kind}, heads of {options.head_dim}; the first row is used\n")
    for table in (decoding, training):
        for line in table(options):
            print(line, flush=True)
        print()


if __name__ == "__main__":
    main()
