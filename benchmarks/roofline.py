"""Lower bounds of computation and memory traffic of a step, and measured peak rates."""

import dataclasses
import time

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from grpojax import sharding
from grpojax.models import TransformerConfig


@dataclasses.dataclass(frozen=True)
class Work:
    """Of one step, counted from the configuration.

    Floating-point operations are those of matrix products and of attention (its causal
    half), with a backward pass that is twice the forward one; a prompt is run once for
    its group. Recomputed activations are no work. Bytes are the weights once for every
    decode iteration, and the keys and values that a token looks back on.
    """

    prefill_flops: float
    decode_flops: float
    decode_bytes: float
    weight_bytes: float  # Of `decode_bytes`, in each iteration.
    update_flops: float

    @property
    def flops(self) -> float:
        return self.prefill_flops + self.decode_flops + self.update_flops


def count(
    config: TransformerConfig,
    lengths: np.ndarray,
    *,
    prefix: int,
    reads: int,
    refills: bool,
    itemsize: int,
    quantized: bool = False,
) -> Work:
    """The work of one step for rows of these lengths.

    `reads` is how often decoding reads the weights: iterations, over all parts. With
    `quantized` layers' matrices are read in 8 bits, with a float32 scale per output.
    """
    c, prompts = config, lengths.shape[0]
    heads, kv = c.num_heads * c.head_dim, c.num_kv_heads * c.head_dim
    layer = 2 * c.hidden_size * (heads + kv) + 3 * c.hidden_size * c.intermediate_size
    matrices, head = c.num_layers * layer, c.hidden_size * c.vocab_size
    attention = 4 * c.num_layers * heads  # For each pair of tokens.
    tokens = float(lengths.sum())
    own = float((lengths * (lengths - 1) / 2 + lengths).sum())
    prompt_pairs = prompts * prefix * (prefix + 1) / 2
    prefill = 2 * matrices * prompts * prefix + attention * prompt_pairs
    decode = 2 * (matrices + head) * tokens + attention * (own + tokens * prefix)
    column = 2 * c.num_layers * kv * itemsize
    # A group without refills reads its prompt where it lies, while any row goes on.
    shared = tokens if refills else float(lengths.max(axis=1).sum())
    outputs = heads + 2 * kv + 2 * c.intermediate_size + 2 * c.hidden_size
    layers = matrices + 4 * c.num_layers * outputs if quantized else matrices * itemsize
    weights = layers + head * itemsize
    return Work(
        prefill_flops=prefill,
        decode_flops=decode,
        decode_bytes=reads * weights + column * (own + shared * prefix),
        weight_bytes=weights,
        update_flops=3 * (prefill + decode),
    )


def _best(call, repeats: int = 5) -> float:
    jax.block_until_ready(call())
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        jax.block_until_ready(call())
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def ceilings(dtype: str, devices: list[jax.Device]) -> tuple[float, float]:
    """The fastest matrix product and the fastest copy: FLOP/s and bytes/s.

    All devices work at the same time, each on a product and a copy of its own.
    """
    cpu = devices[0].platform == "cpu"
    mesh = sharding.make_mesh(data=len(devices), devices=devices)
    each = NamedSharding(mesh, PartitionSpec("data"))
    size, times = (2048, 4) if cpu else (8192, 16)
    # Random, as weights are: a GPU multiplies constants faster.
    x = jr.normal(jr.key(0), (len(devices), size, size)) * size**-0.5
    x = jax.device_put(x.astype(dtype), each)

    @jax.jit
    def multiply(x):
        def once(_, y):
            return jnp.matmul(x, y, preferred_element_type=jnp.float32).astype(dtype)

        return jax.lax.fori_loop(0, times, once, x)

    products = len(devices) * times
    with jax.set_mesh(mesh):
        flops = products * 2 * size**3 / _best(lambda: multiply(x))
    items, rounds = (2**24, 16) if cpu else (2**28, 32)
    y = jax.device_put(jnp.ones((len(devices), items), jnp.float32), each)
    copy = jax.jit(lambda y: jax.lax.fori_loop(0, rounds, lambda _, y: y + 1, y))
    with jax.set_mesh(mesh):
        return flops, rounds * 2 * y.nbytes / _best(lambda: copy(y))
