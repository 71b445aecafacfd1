"""Matrices of weights: dense, 8-bit, low-rank and tiled, and products with them."""

from ._bits import from_bits as from_bits, to_bits as to_bits
from ._int8 import quantize_int8 as quantize_int8
from ._matrix import (
    cast as cast,
    dense as dense,
    Int8Matrix as Int8Matrix,
    LowRankMatrix as LowRankMatrix,
    Matrix as Matrix,
    matrix_shape as matrix_shape,
    multiply as multiply,
    part_axes as part_axes,
    tile as tile,
    TiledMatrix as TiledMatrix,
    to_int8 as to_int8,
)
from ._product import (
    contract as contract,
    product as product,
    save_products as save_products,
)
from ._row_products import row_products as row_products
from ._tiles import from_tiles as from_tiles, to_tiles as to_tiles
