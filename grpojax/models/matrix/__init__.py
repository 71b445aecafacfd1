"""Matrices of weights, in any form of storage, and products with them."""

from ._abstract import AbstractMatrix as AbstractMatrix, Matrix as Matrix
from ._bits import from_bits as from_bits, to_bits as to_bits
from ._int8 import quantize_int8 as quantize_int8
from ._matrix import (
    as_matrix as as_matrix,
    DenseMatrix as DenseMatrix,
    Int8Matrix as Int8Matrix,
    LowRankMatrix as LowRankMatrix,
    TiledMatrix as TiledMatrix,
    to_int8 as to_int8,
)
from ._nf4 import NF4Matrix as NF4Matrix, to_nf4 as to_nf4
from ._product import (
    contract as contract,
    product as product,
    save_products as save_products,
)
from ._quantize import quantize_matrix as quantize_matrix
from ._row_products import row_products as row_products
from ._tiles import from_tiles as from_tiles, to_tiles as to_tiles
