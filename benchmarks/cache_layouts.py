"""Memory layouts of a decode loop's keys and values.

    python benchmarks/cache_layouts.py --dtype float32

decodes 128 tokens of 64 rows with attention alone (4 layers, 2 key and value heads of
64, 2 queries each) and prints milliseconds, the best of five, for every layout.
"""

import argparse
import functools as ft
import itertools
import time
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp


ROWS, LAYERS, KV_HEADS, TIME, HEAD_DIM, QUERIES = 64, 4, 2, 128, 64, 2
BATCH = ROWS * KV_HEADS
KEYS = {"ds": "bqd,bds->bqs", "sd": "bqd,bsd->bqs"}
VALUES = {"sd": "bqs,bsd->bqd", "ds": "bqs,bds->bqd"}


class Layout(NamedTuple):
    """`s` is the axis of columns and `d` that of a head's features."""

    keys: str
    values: str
    layers_first: bool
    as_bits: bool
    widened: bool


def product(layout: Layout, formula: str, x: jax.Array, cached: jax.Array, dtype):
    if layout.as_bits:
        cached = jax.lax.bitcast_convert_type(cached, dtype)
    wide = jnp.float32 if layout.widened else dtype
    x, cached = x.astype(wide), cached.astype(wide)
    return jnp.einsum(formula, x, cached, preferred_element_type=jnp.float32)


def layer(layout: Layout, dtype, column, carry, index):
    """Writes a token's keys and values, and attends to what is there."""
    caches, x = carry

    def write(cache, order):
        fresh = (0.1 * x[:, 0]).astype(dtype)
        if layout.as_bits:
            fresh = jax.lax.bitcast_convert_type(fresh, jnp.uint16)
        fresh = jnp.expand_dims(fresh, 2 if order == "ds" else 1)
        at = (0, 0, column) if order == "ds" else (0, column, 0)
        if layout.layers_first:
            return jax.lax.dynamic_update_slice(cache, fresh[None], (index, *at))
        start = (at[0], index, *at[1:])
        return jax.lax.dynamic_update_slice(cache, fresh[:, None], start)

    read = lambda cache: cache[index] if layout.layers_first else cache[:, index]
    keys, values = write(caches[0], layout.keys), write(caches[1], layout.values)
    scores = product(layout, KEYS[layout.keys], x, read(keys), dtype)
    seen = jnp.where(jnp.arange(TIME) <= column, scores, -jnp.inf)
    weights = jax.nn.softmax(seen)
    mixed = product(layout, VALUES[layout.values], weights, read(values), dtype)
    return ((keys, values), 0.5 * mixed + 0.1 * x), None


def milliseconds(layout: Layout, dtype: str) -> float:
    def token(column, carry):
        step: Callable = ft.partial(layer, layout, dtype, column)
        return jax.lax.scan(step, carry, jnp.arange(LAYERS))[0]

    def empty(order):
        sizes = {"s": TIME, "d": HEAD_DIM}
        stack = (LAYERS, BATCH) if layout.layers_first else (BATCH, LAYERS)
        shape = (*stack, *(sizes[axis] for axis in order))
        return jnp.zeros(shape, jnp.uint16 if layout.as_bits else dtype)

    x = jax.random.normal(jax.random.key(0), (BATCH, QUERIES, HEAD_DIM))
    start = (empty(layout.keys), empty(layout.values)), x
    decode = jax.jit(lambda start: jax.lax.fori_loop(0, TIME, token, start)[1])
    jax.block_until_ready(decode(start))
    seconds = []
    for _ in range(5):
        begin = time.perf_counter()
        jax.block_until_ready(decode(start))
        seconds.append(time.perf_counter() - begin)
    return 1e3 * min(seconds)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    dtype = parser.parse_args().dtype
    narrow = dtype == "bfloat16"
    print("| keys | values | in front | stored as | products in | ms |")
    print("|---|---|---|---|---|---|")
    stored = (
        [(False, False), (True, False), (True, True)] if narrow else [(False, True)]
    )
    for keys, values, first in itertools.product(KEYS, VALUES, (True, False)):
        for as_bits, widened in stored:
            layout = Layout(keys, values, first, as_bits, widened)
            front = "layers" if first else "rows"
            kind = "bits" if as_bits else dtype
            inner = "float32" if widened else dtype
            took = milliseconds(layout, dtype)
            print(
                f"| {keys} | {values} | {front} | {kind} | {inner} | {took:.0f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
