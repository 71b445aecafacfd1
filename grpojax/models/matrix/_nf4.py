"""4-bit NormalFloat, the quantization of QLoRA (arXiv:2305.14314)."""

import functools as ft
import math
from collections.abc import Mapping, Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, BFloat16, DTypeLike, Float, UInt8

from ...types import Axes
from ._abstract import AbstractMatrix, part_axes


BLOCK = 64
"""Weights of a block: consecutive inputs of one output."""

_HALF = BLOCK // 2

LEVELS = (
    -1.0,
    -0.6961928009986877,
    -0.5250730514526367,
    -0.39491748809814453,
    -0.28444138169288635,
    -0.18477343022823334,
    -0.09105003625154495,
    0.0,
    0.07958029955625534,
    0.16093020141124725,
    0.24611230194568634,
    0.33791524171829224,
    0.44070982933044434,
    0.5626170039176941,
    0.7229568362236023,
    1.0,
)
"""Quantiles of a normal distribution, scaled to [-1, 1], with 0 among them."""


class NF4Matrix(AbstractMatrix):
    """A frozen matrix in 4 bits, with an absmax for each block of 64 weights.

        W[i, o] = LEVELS[code[i, o]] · absmax[i // 64, o]

    A block is 64 consecutive inputs of one output; the last one of an output has fewer
    where 64 does not divide them, and takes the same space. The absmax is in bfloat16,
    so a weight takes 4.25 bits.

    **Fields:**

    - `codes`: two to a byte: byte j of a block has the codes of its weights j, in the
        lower half, and j + 32.
    - `absmax`: the largest magnitude of each block.
    - `inputs`: how many there are on all devices.

    Source: arXiv:2305.14314.
    """

    codes: UInt8[Array, "*layer block 32 outputs"]
    absmax: BFloat16[Array, "*layer block outputs"]
    inputs: int = eqx.field(static=True)

    @property
    def shape(self) -> tuple[int, ...]:
        *layer, blocks, _, outputs = self.codes.shape
        # A part of the blocks on a device of its own is of full ones.
        return (*layer, blocks * BLOCK - self._padding, outputs)

    @property
    def bits(self) -> int:
        return 4

    def dense(self, dtype: DTypeLike) -> Float[Array, "*layer inputs outputs"]:
        name = jnp.dtype(dtype).name
        return _dequantize(self.codes, self.absmax, self.shape[-2], name)

    def field_axes(self, axes: Axes) -> Mapping[str, Axes]:
        name, pieces = axes.names[-2], axes.pieces[-2]
        # Neither a block nor a head is split.
        pieces = 1 if self._padding else math.gcd(pieces, self.inputs // BLOCK)
        blocks = (name and f"{name}_blocks", pieces)
        return {
            "codes": part_axes(axes, blocks, (None, 1), -1),
            "absmax": part_axes(axes, blocks, -1),
        }

    @property
    def _padding(self) -> int:
        return -self.inputs % BLOCK


@jax.jit
def to_nf4(weight: Float[Array, "*layer inputs outputs"]) -> NF4Matrix:
    """A weight quantized to 4-bit NormalFloat.

    The code of a weight is the level nearest to weight / absmax, the lower of two that
    are equally near. A block of zeros stays zero.
    """
    *layer, inputs, outputs = weight.shape
    x = weight.astype(jnp.float32)
    x = jnp.pad(x, [(0, 0)] * len(layer) + [(0, -inputs % BLOCK), (0, 0)])
    x = x.reshape(*layer, -1, BLOCK, outputs)
    absmax = jnp.max(jnp.abs(x), axis=-2)
    x = x / jnp.expand_dims(jnp.where(absmax > 0, absmax, 1), -2)
    levels = np.asarray(LEVELS, np.float32)
    middles = (levels[1:] + levels[:-1]) / 2
    code = jnp.zeros(x.shape, jnp.uint8)
    for middle in middles:
        code += (x > middle).astype(jnp.uint8)
    first, second = jnp.split(code, 2, axis=-2)
    return NF4Matrix(first | (second << 4), absmax.astype(jnp.bfloat16), inputs)


@ft.partial(jax.jit, static_argnums=(2, 3), inline=True)
def _dequantize(codes: Array, absmax: Array, inputs: int, dtype: str) -> Array:
    *layer, _, _, outputs = codes.shape
    code = jnp.stack([codes & 15, codes >> 4], axis=-3)
    scale = absmax.astype(jnp.float32)[..., None, None, :]
    x = (_level(code, LEVELS) * scale).astype(dtype)
    return x.reshape(*layer, -1, outputs)[..., :inputs, :]


def _level(code: UInt8[Array, "*shape"], levels: Sequence[float]) -> Array:
    """The levels of codes, by halves: accelerators select faster than they look up."""
    half = len(levels) // 2
    if not half:
        return jnp.full(code.shape, levels[0], jnp.float32)
    lower, upper = (_level(code, x) for x in (levels[:half], levels[half:]))
    return jnp.where(code & half > 0, upper, lower)
