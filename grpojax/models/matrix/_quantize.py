"""The quantized form of a matrix, by its bits."""

import jax.numpy as jnp

from ._abstract import AbstractMatrix, Matrix
from ._matrix import as_matrix, to_int8
from ._nf4 import to_nf4


QUANTIZERS = {4: to_nf4, 8: to_int8}
"""Functions from an array to a quantized matrix, by the bits of a weight."""


def quantize_matrix(matrix: Matrix, bits: int) -> Matrix:
    """A matrix, or the base of its adapter, in so many bits; one in fewer as it is."""

    def quantize(base: AbstractMatrix) -> AbstractMatrix:
        if base.bits <= bits:
            return base
        return QUANTIZERS[bits](base.dense(jnp.float32))

    return as_matrix(matrix).map_base(quantize)
